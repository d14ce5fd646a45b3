"""Lists of classes that people write, and how classes look in pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geoseg.classes import ISAID, LabelClass, read_class_list
from geoseg.errors import DataError
from geoseg.train.figures import confusion_picture, sample_sheet
from geoseg.train.metrics import Scores


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'id,name,color\n0,background,#000000\n1,"Acker\nWiese",#00ff00\n',
            r"line 4.*has the character '\\n'",
        ),
        ("id,name,color\n0,background,\n1,roof,\n3,road,\n", "line 4: after 1 comes 3"),
        ("id,name,color\n1,roof,\n2,road,\n", "line 2: the least id is 1.*0,background"),
        ("id,name,color\n0,background,\n1,roof,\n1,road,\n", "line 4: id 1 is that of line 3"),
        (
            "id,name,color\n0,background,\n1,roof,\n2,Roof,\n",
            "line 4: the name 'Roof' is that of line 3",
        ),
        ("id,name,color\n0,background,red\n", "line 2: the color is 'red'"),
        ("id,name,color\nzero,background,\n", "line 2: the id is 'zero'"),
        ("id,name,color\n0,,\n", "line 2: class 0 has no name"),
        (f"id,name,color\n0,{'x' * 65},\n", "line 2.*has 65 characters"),
        ("name,color\nbackground,#000000\n", "line 1: there is no column id"),
        ("id,name,color\n", "lists no class"),
        ("", "line 1: there is no column id"),
        ("id,name,color\n0,background,#000000,more\n", "line 2: more values than columns"),
    ],
)
def test_a_wrong_list_of_classes_names_the_line(tmp_path, text, words):
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"classes\.csv.*" + words) as caught:
        read_class_list(path)
    assert "LabelClass" not in str(caught.value)


def test_lists_of_spreadsheets_are_read(tmp_path):
    path = tmp_path / "classes.csv"
    for text in ("﻿ID;Name;Color\r\n1;Öl, schwarz;#010203\r\n0;background;\r\n",
                 "id\tname\n0\tbackground\n1\tÖl, schwarz\n"):  # fmt: skip
        path.write_text(text, encoding="utf-8")
        zero, one = read_class_list(path)
        assert (zero.id, zero.color, one.name) == (0, (0, 0, 0), "Öl, schwarz")
    path.write_bytes("id,name\n0,background\n1,Öl\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 3: the byte 0xd6 is not UTF-8"):
        read_class_list(path)


def test_pictures_show_names_and_colors_of_the_classes():
    names = ["background", "Öltank", "漢字", "x" * 64]
    classes = [LabelClass(i, name, (0, 60 * i, 255 - 60 * i)) for i, name in enumerate(names)]
    scores = Scores.of(torch.ones((4, 4)), classes)
    wide, narrow = (
        confusion_picture(s).width for s in (scores, Scores.of(torch.ones((1, 1)), classes[:1]))
    )
    assert wide > narrow > 350  # the caption
    image = np.full((64, 64, 3), 128, np.uint8)
    ids = np.repeat(np.arange(4, dtype=np.uint8), 16)[:, None].repeat(64, axis=1)
    sheet = np.asarray(sample_sheet([(image, ids, ids)], classes)).reshape(-1, 3)
    for item in classes[1:]:
        assert (sheet == item.color).all(axis=1).any()
    isaid = np.asarray(sample_sheet([(image, ids, ids)], ISAID)).reshape(-1, 3)
    for item in ISAID[1:4]:
        assert (isaid == item.color).all(axis=1).any()
