"""Learns a tokenizer: `python -m jaxfm.tokenizer` runs `jaxfm.programs.tokenizer`."""

if __name__ == "__main__":
    from jaxfm.programs.tokenizer import run

    run()
else:
    raise ImportError(
        "jaxfm.tokenizer is a program (python -m jaxfm.tokenizer); its functions are in jaxfm.programs.tokenizer"
    )
