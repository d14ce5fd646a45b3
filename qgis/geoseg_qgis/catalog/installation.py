"""Algorithms that install geoseg and weights."""

from __future__ import annotations

from ..commands import Command, Output, Parameter

PUBLIC_WEIGHTS = ("segnext_t_isaid", "segnext_s_isaid", "segnext_b_isaid", "segnext_l_isaid")
GROUP = "Installation"
COMMANDS = (
    Command(
        "fetchweights",
        "Fetch weights",
        GROUP,
        "Downloads the weights that the authors of SegNeXt trained on all of iSAID, once. They "
        "are for academic use. Predict takes them by their name.",
        (
            Parameter(
                "NAME",
                "choice",
                "Weights",
                "From small and fast (t) to large and slow (l).",
                choices=PUBLIC_WEIGHTS,
            ),
        ),
        ("weights", "fetch"),
        (Output("WEIGHTS", "file", "Weights"),),
        lambda values, stdout: {"WEIGHTS": stdout.splitlines()[0]},
    ),
    Command(
        "setup",
        "Set up geoseg",
        GROUP,
        "Installs geoseg into a Python environment of its own. QGIS and its Python stay as they "
        "are. Downloads about 0.5 GB, on Linux 3 GB with the libraries of NVIDIA GPUs.\n"
        "Not needed if the command geoseg is on the PATH or in Settings → Options → Processing → "
        "Providers → geoseg.",
        (
            Parameter(
                "PYTHON",
                "file",
                "Python 3.11 or newer",
                "Empty: the newest that is found.",
                optional=True,
            ),
            Parameter(
                "AGAIN",
                "flag",
                "Install anew",
                "Replaces an environment that is there.",
                default=False,
            ),
        ),
        outputs=(Output("COMMAND", "file", "The command geoseg"),),
        continues="Run it again: what was downloaded is kept in the cache of pip.",
    ),
)
