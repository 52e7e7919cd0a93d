"""Trains: `python -m jaxfm.train` runs `jaxfm.programs.train`."""

if __name__ == "__main__":
    from jaxfm.programs.train import run

    run()
else:
    raise ImportError("python -m jaxfm.train is a program; its functions are in jaxfm.programs.train")
