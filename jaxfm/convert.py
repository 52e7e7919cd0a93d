"""Writes tagged sentences in another form: `python -m jaxfm.convert` runs `jaxfm.programs.convert`."""

if __name__ == "__main__":
    from jaxfm.programs.convert import run

    run()
else:
    raise ImportError("python -m jaxfm.convert is a program; its functions are in jaxfm.programs.convert")
