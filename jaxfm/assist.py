"""Answers customers, or hands them over: `python -m jaxfm.assist` runs `jaxfm.programs.assist`."""

if __name__ == "__main__":
    from jaxfm.programs.assist import run

    run()
else:
    raise ImportError(
        "jaxfm.assist is a program (python -m jaxfm.assist); its functions are in jaxfm.programs.assist and assistant"
    )
