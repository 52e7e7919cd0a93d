"""Exports a run: `python -m jaxfm.export` runs `jaxfm.programs.export`."""

if __name__ == "__main__":
    from jaxfm.programs.export import run

    run()
else:
    raise ImportError("python -m jaxfm.export is a program; its functions are in jaxfm.programs.export")
