"""Lists, verifies or thins out a run's checkpoints: `python -m jaxfm.checkpoints` runs `jaxfm.programs.checkpoints`."""

if __name__ == "__main__":
    from jaxfm.programs.checkpoints import run

    run()
else:
    raise ImportError("python -m jaxfm.checkpoints is a program; its functions are in jaxfm.programs.checkpoints")
