"""Finds hard negatives: `python -m jaxfm.mine` runs `jaxfm.programs.mine`."""

if __name__ == "__main__":
    from jaxfm.programs.mine import run

    run()
else:
    raise ImportError("jaxfm.mine is a program (python -m jaxfm.mine); its functions are in jaxfm.programs.mine")
