"""Rounds the weights of a run to integers: `python -m jaxfm.quantise` runs `jaxfm.programs.quantise`."""

if __name__ == "__main__":
    from jaxfm.programs.quantise import run

    run()
else:
    raise ImportError("python -m jaxfm.quantise is a program; its functions are in jaxfm.programs.quantise")
