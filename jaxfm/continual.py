"""Learning in stages: `python -m jaxfm.continual` runs `jaxfm.programs.continual`."""

if __name__ == "__main__":
    from jaxfm.programs.continual import run

    run()
else:
    raise ImportError("python -m jaxfm.continual is a program; its functions are in jaxfm.programs.continual")
