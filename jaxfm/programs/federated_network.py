"""The parties of a federation over a network: a client of its own data, and the server of all of them.

What they have alike is an agreement (`federated_agreement`). The two functions at the end are what Flower runs
(`federation.flower`): on a client's machine by what that machine's `flower-supernode --node-config` says, on the
server's by environment variables.
"""

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, cast

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError, did_you_mean
from jaxfm.federation import flower, splits
from jaxfm.federation.client import Client
from jaxfm.federation.flower import FlowerClients
from jaxfm.federation.splits import FILES, parse_split
from jaxfm.observe.progress import Progress
from jaxfm.parallel.compilation import keep_compiled_programs
from jaxfm.programs import federated_clients
from jaxfm.programs.federated import federated
from jaxfm.programs.federated_agreement import check, count_of, read_agreement
from jaxfm.programs.federated_clients import ClientRecords, Dealt
from jaxfm.programs.federated_options import FederatedOptions
from jaxfm.programs.federated_run import Simulation, agree, check_clients, local_work, reading

FILE, WORKDIR, SECONDS, JOIN_SECONDS = (
    *("JAXFM_FEDERATION", "JAXFM_FEDERATED_WORKDIR"),
    *("JAXFM_FEDERATED_SECONDS", "JAXFM_FEDERATED_JOIN_SECONDS"),
)
"""Environment variables of the server: the agreement, the run to write, seconds for an answer, and for all to join."""
NODE_KEYS = AGREEMENT, CLIENT, DATA = ("federation", "client", "data")
"""Keys of a client's --node-config: the agreement's file, its number, and the source of its data."""


def open_client(node_config: Mapping[str, Any], stride: int) -> Client:
    """Returns the client that a machine's --node-config says it is.

    Args:
      node_config: "federation", the agreement's file; "client", its number; "data", the source of its own examples, as
        csv:FOLDER. Without "data" it takes its part of the server's source, as the simulation deals it out.
      stride: updates of the schedule that a round is.

    Raises:
      UserError: a key that is missing or unknown, a number that there is none of, examples that are too few.
    """
    unknown = [name for name in node_config if name not in NODE_KEYS]
    missing = [name for name in (AGREEMENT, CLIENT) if name not in node_config]
    if unknown or missing:
        choice = did_you_mean(unknown[0], NODE_KEYS) if unknown else f"{missing[0]} is missing."
        raise UserError(f"--node-config={dict(node_config)}: has the keys {', '.join(NODE_KEYS)}. {choice}")
    config, options = read_agreement(pathlib.Path(str(node_config[AGREEMENT])))
    number, count = int(node_config[CLIENT]), count_of(options)
    if not 0 <= number < count:
        raise UserError(f"--node-config: client={number}: must be from 0 to {count - 1}.")
    agreed = agree(config)
    with reading(agreed) as reader:
        if source := str(node_config.get(DATA, "")):
            records, names = reader.records(source, config)
            mine = ClientRecords(f"client {number}", records, splits.main_classes(records, names))
            if len(records) < options.min_examples:
                raise UserError(f"{source}: has {len(records):,} examples, fewer than {options.min_examples}.")
        else:
            split = parse_split(options.split)
            folder = options.folder() if split.kind == FILES else None
            mine = federated_clients.deal(reader, split, 0 if folder else count, folder, options.min_examples)[number]
        own = federated_clients.own_records(reader, number, mine.records, options.holdout)
        data = federated_clients.client_data(reader, mine.name, *own)
    _, _, work = local_work(agreed, options, stride)
    return Client(number, data, work)


def set_up_server(
    clients: FlowerClients, seconds: float, config: Config, options: FederatedOptions, progress: Progress
) -> Simulation:
    """Waits for the clients and builds what the server needs; it reads its own source alone.

    Raises:
      UserError: clients that do not join, and whatever a simulation is refused for.
    """
    check(options)
    count = count_of(options)
    agreed = agree(config)
    check_clients(options, count, agreed.config.seed)
    progress.say(f"waiting for {count} clients")
    clients.gather(count, seconds=seconds)
    clients.stride = max(each.steps for each in clients.clients)
    config, setup, work = local_work(agreed, options, clients.stride)
    for line in (*agreed.lines, *setup.session.notes):
        progress.say(line)
    numbers = [(each.data.examples, each.data.held_out_examples, each.steps) for each in clients.clients]
    everyone, nothing = cast(Any, clients.clients), cast(Any, None)
    dealt = Dealt([], [{} for _ in numbers], nothing, f"of other parties: {numbers}")
    return Simulation(config, options, agreed.first, agreed.task, setup, work, everyone, dealt, clients)


def server_app() -> Any:
    """Returns Flower's ServerApp of the federation that the environment names."""
    app = flower.library().serverapp.ServerApp()

    @app.main()
    def main(grid: Any, context: Any) -> None:
        del context
        missing = [name for name in (FILE, WORKDIR) if not os.environ.get(name)]
        if missing:
            raise UserError(f"{missing[0]}: must be set where the server of a federation is started.")
        keep_compiled_programs()
        config, options = read_agreement(pathlib.Path(os.environ[FILE]))
        clients = FlowerClients(grid, seconds=float(os.environ.get(SECONDS, "600")))
        reached = functools.partial(set_up_server, clients, float(os.environ.get(JOIN_SECONDS, "600")))
        given = files.read_object(pathlib.Path(os.environ[FILE]))["options"]
        federated(config, os.environ[WORKDIR], reached=reached, **given)

    return app


def client_app() -> Any:
    """Returns Flower's ClientApp of the client that this machine's --node-config names."""
    keep_compiled_programs()
    return flower.client_app(open_client)
