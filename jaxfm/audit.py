"""Says what is wrong with a labelled data set: `python -m jaxfm.audit` runs `jaxfm.programs.audit`."""

if __name__ == "__main__":
    from jaxfm.programs.audit import run

    run()
else:
    raise ImportError("jaxfm.audit is a program (python -m jaxfm.audit); its functions are in jaxfm.programs.audit")
