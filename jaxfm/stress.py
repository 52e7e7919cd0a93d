"""Scores a run on changed inputs: `python -m jaxfm.stress` runs `jaxfm.programs.stress`."""

if __name__ == "__main__":
    from jaxfm.programs.stress import run

    run()
else:
    raise ImportError("python -m jaxfm.stress is a program; its functions are in jaxfm.programs.stress")
