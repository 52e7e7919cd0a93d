"""Compares runs: `python -m jaxfm.runs` runs `jaxfm.programs.runs`."""

if __name__ == "__main__":
    from jaxfm.programs.runs import run

    run()
else:
    raise ImportError("python -m jaxfm.runs is a program; its functions are in jaxfm.programs.runs")
