"""Scores a run: `python -m jaxfm.evaluate` runs `jaxfm.programs.evaluate`."""

if __name__ == "__main__":
    from jaxfm.programs.evaluate import run

    run()
else:
    raise ImportError(
        "jaxfm.evaluate is a program (python -m jaxfm.evaluate); its functions are in jaxfm.programs.evaluate"
    )
