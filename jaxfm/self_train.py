"""Self-training: `python -m jaxfm.self_train` runs `jaxfm.programs.self_train`."""

if __name__ == "__main__":
    from jaxfm.programs.self_train import run

    run()
else:
    raise ImportError(
        "jaxfm.self_train is a program (python -m jaxfm.self_train); its functions are in jaxfm.programs.self_train"
    )
