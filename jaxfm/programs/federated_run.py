"""A federated simulation from config to result: what is read and checked first, rounds, what is trained beside them."""

import contextlib
import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.task import Task
from jaxfm.errors import UserError
from jaxfm.federation import fairness
from jaxfm.federation.client import Client, ClientData
from jaxfm.federation.corrections import SCAFFOLD
from jaxfm.federation.local import LocalRules, LocalTraining
from jaxfm.federation.rounds import Exchange, Goal, Rounds, score_clients
from jaxfm.federation.splits import FILES, parse_split
from jaxfm.federation.storage import RoundStore
from jaxfm.federation.update import Values
from jaxfm.observe.progress import Progress
from jaxfm.observe.writers import to_json
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import federated_clients, federated_protection
from jaxfm.programs.audit_records import TRAIN, VALID
from jaxfm.programs.federated_clients import Dealt, Reader
from jaxfm.programs.federated_options import CENTRAL, LOCAL, FederatedOptions
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training import batch_size, grid, initial
from jaxfm.training import workdir as workdirs
from jaxfm.training.schedule import train_batches
from jaxfm.training.session import make_session
from jaxfm.training.setup import Setup, prepare
from jaxfm.training.teachers import tokenizer_of

CHECKPOINTS, BESIDE_FILE = "checkpoints", "beside.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Simulation:
    """A simulation before its first round; everything that can be checked is checked.

    Attributes:
      config: of the run, with what the data have chosen.
      options: what is asked for.
      first: where the first weights are from.
      task: over the server's own source.
      setup: of the local steps.
      work: what clients share.
      clients: all of them.
      dealt: their data.
      exchange: reaches clients that are elsewhere; None: they are in this process.
    """

    config: Config
    options: FederatedOptions
    first: Initial
    task: Task
    setup: Setup
    work: LocalTraining
    clients: list[Client]
    dealt: Dealt
    exchange: Exchange | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a simulation to go on, beside config and options: a hash of the clients' data."""
        return {"clients' data": self.dealt.fingerprint, "validation data": self.setup.valid_fingerprint}

    def goal(self, progress: Progress) -> Goal:
        """Returns what rounds are judged by."""
        config, task = self.config, self.task

        def score(values: Values) -> Mapping[str, float]:
            return self.score(values, VALID, progress)

        return Goal(
            config.eval.metric,
            bool(task.directions[config.eval.metric]),
            score if VALID in task.datasets else None,
            self.options.eval_every,
            # Which round is the best one would tell of clients' examples, where these are what it is judged by.
            config.eval.select == "best" and (VALID in task.datasets or not self.options.private),
        )

    def score(self, values: Values, split: str, progress: Progress, work: LocalTraining | None = None) -> Any:
        """Returns the metrics of a model on a split of the server's own source."""
        work = work or self.work
        rows = self.task.datasets[split]
        with progress.task(f"scoring {split}", len(rows)) as advance:
            outputs = work.evaluate(work.params_of(values), rows, advance)
        return {name: float(value) for name, value in self.task.scorer(split).metrics(outputs).items()}

    def scores(self, values: Values, progress: Progress) -> dict[str, Any]:
        """Returns the metrics of a model on each split of the server, and of the clients' held-out examples."""
        goal = self.goal(progress)
        found = {split: self.score(values, split, progress) for split in self.task.datasets if split != TRAIN}
        scores = score_clients(self.clients, values, progress)
        return found | {"held_out": fairness.summary(scores, goal.metric, more_is_better=goal.more_is_better)}


class Agreed(NamedTuple):
    """What all parties of a federation know before anybody reads a client's data.

    Attributes:
      config: of the run, with what the server's own source has chosen.
      first: where the first weights are from.
      task: over the server's own source.
      loaded: the weights.
      mesh: of this process.
      lines: for the log.
    """

    config: Config
    first: Initial
    task: Task
    loaded: Mapping[str, HostArray]
    mesh: Mesh
    lines: tuple[str, ...]


def agree(config: Config) -> Agreed:
    """Reads the server's source and the weights; makes nothing on the disk.

    Raises UserError for whatever `jaxfm.train` refuses, and keys that have no meaning where clients train.
    """
    _check(config)
    first = initial.resolve(config.model)
    task, loaded = registry.create(config, first)
    mesh = make_mesh(config.parallel.mesh)
    rows = task.datasets[TRAIN]
    config = workdirs.with_values(config, task.chosen)
    config, by_examples = batch_size.batch_of_examples(config, rows.volume, mesh)
    config, found = batch_size.autotune_batch_size(config, task.objective, mesh, most=len(rows))
    return Agreed(config, first, task, loaded, mesh, (*task.notes, *by_examples, *found))


@contextlib.contextmanager
def reading(agreed: Agreed) -> Iterator[Reader]:
    """Yields what reads clients' data as the server's task does."""
    with tempfile.TemporaryDirectory() as name:
        saved = pathlib.Path(name)
        agreed.task.save(saved)
        definition = registry.definition(agreed.config.task.name)
        yield Reader(definition, saved, agreed.task.objective.spec, agreed.config)


def local_work(agreed: Agreed, options: FederatedOptions, stride: int) -> tuple[Config, Setup, LocalTraining]:
    """Returns the local step, of which a round is `stride` updates of the schedule, with its config and its setup."""
    config = replaced(agreed.config, {"train.steps": options.rounds * stride})
    setup = prepare(config, agreed.task, agreed.loaded, agreed.mesh)
    work = LocalTraining(setup.session, config, setup.initial_state().params, options.local_rules(stride))
    return config, setup, work


def check_clients(options: FederatedOptions, count: int, seed: int) -> None:
    """Raises UserError for options that do not go with so many clients."""
    options.server_rules(count, seed)
    options.faults(count, seed)
    options.of_quorum(count, seed)
    federated_protection.check(options, count)


def set_up(config: Config, options: FederatedOptions, progress: Progress) -> Simulation:
    """Reads data and weights, deals out clients and builds the local step; makes nothing on the disk.

    Raises:
      UserError: whatever `jaxfm.train` refuses; keys that have no meaning where clients train; too few examples.
    """
    split = parse_split(options.split)
    folder = options.folder() if split.kind == FILES else None
    agreed = agree(config)
    with reading(agreed) as reader:
        dealt_out = federated_clients.deal(
            reader, split, 0 if folder else int(options.clients), folder, options.min_examples
        )
        dealt = federated_clients.make_clients(reader, dealt_out, options.holdout, progress)
    check_clients(options, len(dealt.clients), agreed.config.seed)
    stride = max(_local_steps(agreed.config, options, each, agreed.mesh) for each in dealt.clients)
    config, setup, work = local_work(agreed, options, stride)
    for line in (*agreed.lines, *setup.session.notes):
        progress.say(line)
    clients = [Client(number, data, work) for number, data in enumerate(dealt.clients)]
    return Simulation(config, options, agreed.first, agreed.task, setup, work, clients, dealt)


def _check(config: Config) -> None:
    """Raises UserError for keys that are of one run alone, or that the records of clients do not have."""
    if grid.asks_for_several(config):
        raise UserError("config.train.seeds: several runs in one program are no federated training. Set 1.")
    if jax.process_count() > 1:
        raise UserError("a simulation of several processes is not there. Start it as one process.")
    values: dict[str, tuple[Any, Any]] = {
        "privacy.clip_norm": (config.privacy.clip_norm, 0.0),
        "grow.layers": (config.grow.layers, ()),
        "supernet.depths": (config.supernet.depths, ()),
        "supernet.heads": (config.supernet.heads, ()),
        "supernet.ffn_sizes": (config.supernet.ffn_sizes, ()),
        "exits.every": (config.exits.every, 0),
        "distil.teacher": (config.distil.teachers, ()),
        "augment.masked_lm": (config.augment.masked_lm, ""),
        "checkpoint.mirror": (config.checkpoint.mirror, ""),
        "log.tracker": (config.log.tracker, ""),
        "profile.steps": (config.profile.steps, ""),
        "task.perturb.kinds": (getattr(getattr(config.task, "perturb", None), "kinds", ""), ""),
    }
    for key, (value, default) in values.items():
        if value and value != default:
            raise UserError(
                f"config.{key}: {value!r}: is for a run of its own, and does not go with federated training. Leave it "
                f"at {default!r}."
            )


def _local_steps(config: Config, options: FederatedOptions, data: ClientData, mesh: Mesh) -> int:
    """Returns the updates of a client in a round, before there is a step."""
    return options.local_steps or max(1, train_batches(config, data.rows, mesh).steps_for(options.local_epochs))


def run_rounds(
    simulation: Simulation, home: pathlib.Path, progress: Progress
) -> tuple[list[dict[str, Any]], int, Values]:
    """Does the rounds that are not done yet; returns the history, the round that is kept, and its values."""
    options, config = simulation.options, simulation.config
    count, seed = len(simulation.clients), config.seed
    work = simulation.work
    rules = options.server_rules(count, seed)
    server = federated_protection.make_server(
        work.values_of(work.base),
        rules,
        options,
        examples=sum(each.data.examples for each in simulation.clients),
        control=work.rules.method == SCAFFOLD,
    )
    with contextlib.closing(RoundStore(home / CHECKPOINTS)) as store:
        rounds = Rounds(
            server=server,
            clients=simulation.clients,
            work=work,
            faults=options.faults(count, seed),
            quorum=options.of_quorum(count, seed),
            goal=simulation.goal(progress),
            store=store,
            progress=progress,
            at_once=options.at_once,
            exchange=simulation.exchange,
        )
        history = rounds.run(options.rounds)
        kept, values = rounds.result(history)
    return history, kept, values


def train_beside(simulation: Simulation, home: pathlib.Path, progress: Progress) -> dict[str, Any]:
    """Trains what is compared with, as far as that is not done; returns name -> scores.

    "central" trains on the examples of all clients as one, with as many updates as all of them make together; "local"
    is each client by itself, with as many updates as it would make in all rounds.
    """
    path, names = home / BESIDE_FILE, simulation.options.beside_names
    found: dict[str, Any] = files.read_object(path) if path.is_file() else {}
    for name, train in ((CENTRAL, _train_central), (LOCAL, _train_local)):
        if name in names and name not in found:
            found[name] = to_json(train(simulation, progress))
            files.write_json(path, found)
    return {name: found[name] for name in (CENTRAL, LOCAL) if name in names}


def _train_central(simulation: Simulation, progress: Progress) -> dict[str, Any]:
    options, clients = simulation.options, simulation.clients
    share = options.number_per_round(len(clients)) / len(clients)
    steps = max(1, round(options.rounds * share * sum(each.steps for each in clients)))
    progress.say(f"beside: central training, {steps:,} updates on the examples of all clients")
    config = replaced(simulation.config, {"train.steps": steps})
    mesh, objective = simulation.setup.session.mesh, simulation.task.objective
    find = functools.partial(tokenizer_of, simulation.task)
    session = make_session(config, objective, mesh, total_steps=steps, find_tokenizer=find)
    work = LocalTraining(session, config, simulation.work.base, LocalRules(steps=steps, stride=steps))
    values = work.values_of(work.base)
    update = Client(len(clients), simulation.dealt.pooled, work).train(values, 0)
    trained = {path: value + update.difference[path] for path, value in values.items()}
    return {"steps": steps} | simulation.scores(trained, progress)


def _train_local(simulation: Simulation, progress: Progress) -> dict[str, Any]:
    options, clients, goal = simulation.options, simulation.clients, simulation.goal(progress)
    first = simulation.work
    rules = LocalRules(steps=options.local_steps, epochs=options.local_epochs, stride=first.rules.stride)
    work = LocalTraining(simulation.setup.session, simulation.config, first.base, rules)
    values, own = work.values_of(work.base), []
    of_splits: dict[str, list[dict[str, float]]] = {split: [] for split in simulation.task.datasets if split != TRAIN}
    with progress.task("beside: clients by themselves", len(clients)) as advance:
        for client in clients:
            alone = Client(client.number, client.data, work)
            trained = alone.train_alone(values, options.rounds)
            own.append(alone.score(trained))
            for split, known in of_splits.items():
                known.append(simulation.score(trained, split, progress, work))
            advance(1)
    means = {
        split: {name: float(np.mean([each[name] for each in known])) for name in known[0]}
        for split, known in of_splits.items()
    }
    return means | {"held_out": fairness.summary(own, goal.metric, more_is_better=goal.more_is_better)}
