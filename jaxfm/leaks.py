"""Says what a model gives away of its training texts: `python -m jaxfm.leaks` runs `jaxfm.programs.leaks`."""

if __name__ == "__main__":
    from jaxfm.programs.leaks import run

    run()
else:
    raise ImportError("jaxfm.leaks is a program (python -m jaxfm.leaks); its functions are in jaxfm.programs.leaks")
