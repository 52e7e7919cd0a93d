"""Chooses what to label next: `python -m jaxfm.select` runs `jaxfm.programs.select`."""

if __name__ == "__main__":
    from jaxfm.programs.select import run

    run()
else:
    raise ImportError("jaxfm.select is a program (python -m jaxfm.select); its functions are in jaxfm.programs.select")
