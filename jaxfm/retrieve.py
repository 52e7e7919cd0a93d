"""Finds texts of a corpus: `python -m jaxfm.retrieve` runs `jaxfm.programs.retrieve`."""

if __name__ == "__main__":
    from jaxfm.programs.retrieve import run

    run()
else:
    raise ImportError(
        "jaxfm.retrieve is a program (python -m jaxfm.retrieve); its functions are in jaxfm.programs.retrieve"
    )
