"""Shows a Trainer script as a command: `python -m jaxfm.from_trainer` runs `jaxfm.programs.from_trainer`."""

if __name__ == "__main__":
    from jaxfm.programs.from_trainer import run

    run()
else:
    raise ImportError(
        "jaxfm.from_trainer is a program (python -m jaxfm.from_trainer); its functions are in "
        "jaxfm.programs.from_trainer"
    )
