"""Federated training, simulated: `python -m jaxfm.federated` runs `jaxfm.programs.federated`."""

if __name__ == "__main__":
    from jaxfm.programs.federated import run

    run()
else:
    raise ImportError(
        "jaxfm.federated is a program (python -m jaxfm.federated); its functions are in jaxfm.programs.federated"
    )
