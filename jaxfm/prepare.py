"""Prepares a corpus: `python -m jaxfm.prepare` runs `jaxfm.programs.prepare`."""

if __name__ == "__main__":
    from jaxfm.programs.prepare import run

    run()
else:
    raise ImportError(
        "jaxfm.prepare is a program (python -m jaxfm.prepare); its functions are in jaxfm.programs.prepare"
    )
