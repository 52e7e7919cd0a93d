"""The command `jaxfm` as a module: `python -m jaxfm train ner --workdir runs/ner`."""

from jaxfm.programs.command import main

if __name__ == "__main__":
    main()
