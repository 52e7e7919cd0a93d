"""Serves trained models over HTTP: `python -m jaxfm.serve` runs `jaxfm.programs.serve`."""

if __name__ == "__main__":
    from jaxfm.programs.serve import run

    run()
else:
    raise ImportError("jaxfm.serve is a program (python -m jaxfm.serve); its functions are in jaxfm.programs.serve")
