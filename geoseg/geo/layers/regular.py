"""Outlines in the forms in which the objects of their classes are built."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from geoseg.classes import LabelClass
from geoseg.errors import OptionError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.by_class import EVERY, by_id
from geoseg.geo.layers.measure import ground_axes
from geoseg.geo.vector.forms import BUILT_AS, MIN_IOU, Form
from geoseg.geo.vector.polygons import Polygons
from geoseg.geo.vector.regularize import Regularized, regularize

_LOG = logging.getLogger("geoseg")

Choice = Form | Literal["built", "none"]
"""A form; built = the one that `BUILT_AS` has for the class; none = the outline as it is."""
Forms = str | Mapping[str, str]
"""As users give them: all, CLASS, CLASS=FORM or all=FORM, joined by commas; or forms by class."""


def parse_forms(forms: Forms, flag: str = "--regularize") -> dict[str, Choice]:
    """Return the choice of each class, by name, id or `EVERY`. Raises OptionError.

    A class that is named without a form must have one in `BUILT_AS`.
    """
    if isinstance(forms, str):
        pairs = [part.partition("=")[::2] for part in forms.split(",")]
    else:
        pairs = [(str(key), str(form)) for key, form in forms.items()]
    found: dict[str, Choice] = {}
    for key, form in ((key.strip(), form.strip()) for key, form in pairs):
        if not key:
            raise OptionError(f"{flag} has an empty part; give all, CLASS or CLASS=FORM,…")
        if form and form not in (*MIN_IOU, "built", "none"):
            raise OptionError(f"{flag} {key}={form}: choose one of {', '.join(MIN_IOU)}, or none")
        if not form and key != EVERY and not key.isdecimal() and _spelled(key) not in BUILT_AS:
            raise OptionError(
                f"{flag} {key}: objects of this class are built in no one form; choose one, such "
                f"as {key}=angles or {key}=box"
            )
        found[key] = form or "built"  # type: ignore[assignment]
    return found


def forms_text(forms: Mapping[str, str]) -> str:
    """Return parsed forms as users give them."""
    return ",".join(key if form == "built" else f"{key}={form}" for key, form in forms.items())


def regular_outlines(
    polygons: Polygons, geobox: GeoBox, classes: Sequence[LabelClass], forms: Forms
) -> Regularized:
    """Return the outlines of polygons in the forms of their classes, true on the ground.

    Angles and circles are those of a plane that touches the ellipsoid at the object. Raises
    OptionError.
    """
    choices = by_id(parse_forms(forms), np.unique(polygons.class_id), classes)
    names = {label.id: label.name for label in classes}
    form_of: dict[int, Form | None] = {}
    for class_id, choice in choices.items():
        if choice == "built":
            form_of[class_id] = BUILT_AS.get(_spelled(names.get(class_id, "")))
        elif choice != "none":
            form_of[class_id] = choice
    if unchanged := [
        names.get(class_id, f"class_{class_id}")
        for class_id, choice in choices.items()
        if choice == "built" and form_of[class_id] is None
    ]:
        _LOG.warning(
            "--regularize: no form is known for %s, whose outlines stay; give one, such as %s=box",
            ", ".join(unchanged),
            unchanged[0],
        )
    wanted = [form_of.get(class_id) for class_id in polygons.class_id.tolist()]
    chosen = np.array([form is not None for form in wanted], bool)
    a, b, c, d, e, f = tuple(geobox.transform)[:6]
    grid = np.array([[a, b], [d, e]])
    boxes = polygons.bounds[chosen].reshape(-1, 2, 2) / polygons.steps
    corners = np.stack([boxes[:, [0, 0, 1, 1], 0], boxes[:, [0, 1, 0, 1], 1]], axis=-1)
    placed = corners @ grid.T + (c, f)
    bounds = np.concatenate([placed.min(axis=1), placed.max(axis=1)], axis=1)
    metric = ground_axes(bounds, geobox.crs) @ grid
    metric /= np.sqrt(np.abs(np.linalg.det(metric)))[:, None, None]
    return regularize(polygons, wanted, metric)


def _spelled(name: str) -> str:
    """Return a class's name as `BUILT_AS` spells it."""
    return name.lower().replace(" ", "_").replace("-", "_")
