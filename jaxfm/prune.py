"""Makes the model of a run smaller: `python -m jaxfm.prune` runs `jaxfm.programs.prune`."""

if __name__ == "__main__":
    from jaxfm.programs.prune import run

    run()
else:
    raise ImportError("python -m jaxfm.prune is a program; its functions are in jaxfm.programs.prune")
