"""`python -m geoseg`."""

from geoseg.cli.main import run  # type: ignore[import-not-found]  # mapped when installed

run()
