"""Probes frozen vectors: `python -m jaxfm.probe` runs `jaxfm.programs.probe`."""

if __name__ == "__main__":
    from jaxfm.programs.probe import run

    run()
else:
    raise ImportError("jaxfm.probe is a program (python -m jaxfm.probe); its functions are in jaxfm.programs.probe")
