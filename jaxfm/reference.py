"""Writes the reference of all keys: `python -m jaxfm.reference` runs `jaxfm.programs.reference`."""

if __name__ == "__main__":
    from jaxfm.programs.reference import run

    run()
else:
    raise ImportError(
        "jaxfm.reference is a program (python -m jaxfm.reference); its functions are in jaxfm.programs.reference"
    )
