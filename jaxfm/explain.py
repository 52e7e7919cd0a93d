"""Says which words a trained model's results are due to: `python -m jaxfm.explain` runs `jaxfm.programs.explain`."""

if __name__ == "__main__":
    from jaxfm.programs.explain import run

    run()
else:
    raise ImportError(
        "jaxfm.explain is a program (python -m jaxfm.explain); its functions are in jaxfm.programs.explain"
    )
