"""`python -m geoseg`."""

from geoseg.cli.main import main  # type: ignore[import-not-found]  # mapped when installed

main()
