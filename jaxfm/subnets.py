"""Finds the best subnet of a supernet under limits: `python -m jaxfm.subnets` runs `jaxfm.programs.subnets`."""

if __name__ == "__main__":
    from jaxfm.programs.subnets import run

    run()
else:
    raise ImportError("python -m jaxfm.subnets is a program; its functions are in jaxfm.programs.subnets")
