"""Training that is stopped says so, and how to continue."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from pytorch_lightning.utilities.exceptions import SIGTERMException
from training_sets import RGB, folder_of, mask_of, png, recipe_of

from geoseg.train.fit import interruptible

STOPPED = """
import os, signal, sys
from geoseg.cli.main import main
from geoseg.train.module import SegmentationModule

step = SegmentationModule.training_step
def step_or_stop(self, batch, index):
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, batch, index)
SegmentationModule.training_step = step_or_stop
main(sys.argv[1:])
"""


def test_ctrl_c_leaves_a_run_that_says_how_it_goes_on(tmp_path):
    image = png(tmp_path / "a.png", RGB.transpose(1, 2, 0))
    root = folder_of(tmp_path, image, [mask_of(0, 1)])
    stages = [{"steps": 6, "batch": 1, "crop": 64, "scale": [1, 1]}]
    recipe = recipe_of(root, tmp_path / "r.yaml", stages=stages)
    command = ["train", str(recipe), "-o", str(tmp_path / "run"), "--device", "cpu"]
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED, *command], capture_output=True, text=True, check=False
    )
    assert stopped.returncode == 130, stopped.stderr
    assert "Interrupted\nNote: the run is kept in" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def exit_after_ctrl_c() -> None:
    """As Lightning does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def exit_after_sigterm() -> None:
    raise SIGTERMException


@pytest.mark.parametrize("leave", [exit_after_ctrl_c, exit_after_sigterm])
def test_every_way_to_stop_a_run_is_an_interruption(tmp_path, leave):
    before = signal.getsignal(signal.SIGINT)
    for has_state in (False, True):
        with pytest.raises(KeyboardInterrupt) as stopped, interruptible(tmp_path):
            leave()
        (note,) = stopped.value.__notes__
        assert ("--resume continues it" in note) == has_state
        assert ("starts the run anew" in note) != has_state
        (tmp_path / "state.ckpt").touch()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(SystemExit), interruptible(tmp_path):
        sys.exit(3)
