"""Compares two models: `python -m jaxfm.verify` runs `jaxfm.programs.verify`."""

if __name__ == "__main__":
    from jaxfm.programs.verify import run

    run()
else:
    raise ImportError("python -m jaxfm.verify is a program; its functions are in jaxfm.programs.verify")
