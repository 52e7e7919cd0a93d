"""What the parties of a federation over a network have alike, as a file.

`python -m jaxfm.federated ... --agreement=FILE` writes it: config and options, with whatever data decide (the size of a
batch) decided. Each party has this file and what its config names: the server's source, from which classes and the
shape of rows follow, and the weights. Clients have their own data beside it.
"""

import dataclasses
import pathlib

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.federation.corrections import SCAFFOLD
from jaxfm.federation.splits import FILES, parse_split
from jaxfm.observe.writers import to_json
from jaxfm.programs.federated_options import FederatedOptions, options_of
from jaxfm.schema import to_dict
from jaxfm.tasks import registry

VERSION = 1


def write(path: pathlib.Path, config: Config, options: FederatedOptions) -> None:
    """Writes what all parties of a federation must have alike; `config`: with what data decide decided."""
    found = {
        "version": VERSION,
        "clients": count_of(options),
        "config": to_dict(config),
        "options": dataclasses.asdict(options),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, to_json(found))


def read_agreement(path: pathlib.Path) -> tuple[Config, FederatedOptions]:
    """Returns config and options of an agreement; UserError for a file that is none."""
    found = files.read_object(path)
    if found.get("version") != VERSION:
        raise UserError(
            f"{path}: is no agreement of version {VERSION}. Write one: jaxfm federated ... --agreement=FILE"
        )
    return registry.from_config_dict(found["config"]), options_of(found["options"])


def check(options: FederatedOptions) -> None:
    """Raises UserError for options that are of one process alone."""
    rules = (
        (options.method == SCAFFOLD, f"--method={SCAFFOLD}", "a client would have to remember its control variate"),
        (bool(options.secure), f"--secure={options.secure}", "the simulation would be shown what it hides"),
        (bool(options.beside), f"--beside={options.beside}", "the server has no client's data to train on"),
    )
    for holds, what, why in rules:
        if holds:
            raise UserError(f"{what}: is not there where clients are reached over a network: {why}.")


def count_of(options: FederatedOptions) -> int:
    """Returns the number of clients."""
    if parse_split(options.split).kind != FILES:
        return int(options.clients)
    return sum(not path.name.startswith(".") for path in options.folder().iterdir())
