"""Plans a run: `python -m jaxfm.plan` runs `jaxfm.programs.plan`."""

if __name__ == "__main__":
    from jaxfm.programs.plan import run

    run()
else:
    raise ImportError("python -m jaxfm.plan is a program; its functions are in jaxfm.programs.plan")
