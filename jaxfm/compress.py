"""Finds a smaller form of a run: `python -m jaxfm.compress` runs `jaxfm.programs.compress`."""

if __name__ == "__main__":
    from jaxfm.programs.compress import run

    run()
else:
    raise ImportError("python -m jaxfm.compress is a program; its functions are in jaxfm.programs.compress")
