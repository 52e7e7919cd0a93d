"""Looks at this installation: `python -m jaxfm.doctor` runs `jaxfm.programs.doctor`."""

if __name__ == "__main__":
    from jaxfm.programs.doctor import run

    run()
else:
    raise ImportError("jaxfm.doctor is a program (python -m jaxfm.doctor); its functions are in jaxfm.programs.doctor")
