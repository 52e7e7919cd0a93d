"""Looks for bias in a trained model: `python -m jaxfm.bias` runs `jaxfm.programs.bias`."""

if __name__ == "__main__":
    from jaxfm.programs.bias import run

    run()
else:
    raise ImportError("jaxfm.bias is a program (python -m jaxfm.bias); its functions are in jaxfm.programs.bias")
