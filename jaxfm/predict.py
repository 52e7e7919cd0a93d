"""Uses a trained model: `python -m jaxfm.predict` runs `jaxfm.programs.predict`."""

if __name__ == "__main__":
    from jaxfm.programs.predict import run

    run()
else:
    raise ImportError(
        "jaxfm.predict is a program (python -m jaxfm.predict); its functions are in jaxfm.programs.predict"
    )
