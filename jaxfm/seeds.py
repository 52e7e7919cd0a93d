"""Trains several seeds: `python -m jaxfm.seeds` runs `jaxfm.programs.seeds`."""

if __name__ == "__main__":
    from jaxfm.programs.seeds import run

    run()
else:
    raise ImportError("python -m jaxfm.seeds is a program; its functions are in jaxfm.programs.seeds")
