"""Looks at data before training: `python -m jaxfm.check` runs `jaxfm.programs.check`."""

if __name__ == "__main__":
    from jaxfm.programs.check import run

    run()
else:
    raise ImportError("python -m jaxfm.check is a program; its functions are in jaxfm.programs.check")
