"""Searches for values of a config's keys: `python -m jaxfm.search` runs `jaxfm.programs.search`."""

if __name__ == "__main__":
    from jaxfm.programs.search import run

    run()
else:
    raise ImportError("python -m jaxfm.search is a program; its functions are in jaxfm.programs.search")
