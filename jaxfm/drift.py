"""Compares new data with those of a run: `python -m jaxfm.drift` runs `jaxfm.programs.drift`."""

if __name__ == "__main__":
    from jaxfm.programs.drift import run

    run()
else:
    raise ImportError("jaxfm.drift is a program (python -m jaxfm.drift); its functions are in jaxfm.programs.drift")
