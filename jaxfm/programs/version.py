"""Prints the version: `jaxfm version`."""

import jaxfm


def run() -> None:
    """Prints it."""
    print(f"jaxfm {jaxfm.__version__}")
