"""Trains over many clients in one process: `python -m jaxfm.federated CONFIG --workdir=runs/f --clients=10`.

A simulation of federated learning: the training data are dealt out to clients (--split), who train the server's model
for some updates a round on their own examples alone; the server combines what they send. What travels is what the
config trains: with config.adapt.lora.rank the adapters alone. The result is a run like any other, with federated.md, a
table and a picture of the rounds. Rounds are kept in WORKDIR-rounds; the same command again goes on where it was
stopped, to the same bits.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.federation import report as tables
from jaxfm.federation.report import JSON_FILE, MARKDOWN_FILE, PICTURE
from jaxfm.federation.update import Values, size_of
from jaxfm.observe.federated_plots import plot_rounds
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.tables import to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs import federated_agreement, federated_protection, program
from jaxfm.programs.federated_options import BESIDE, FederatedOptions, options_of
from jaxfm.programs.federated_run import Simulation, agree, check_clients, run_rounds, set_up, train_beside
from jaxfm.programs.given_config import GivenConfig, resolve_config
from jaxfm.programs.pruned_run import is_whole, new_output, written
from jaxfm.schema import to_dict
from jaxfm.training import results

USAGE = (
    "usage: python -m jaxfm.federated CONFIG --workdir=DIR [--rounds=10]\n"
    "  [--clients=10 [--split=iid|dirichlet=0.1] | --clients=FOLDER --split=files]\n"
    "  [--per_round=all|N|SHARE] [--local_steps=N | --local_epochs=1]\n"
    "  [--method=fedavg|fedprox|scaffold] [--server_optimizer=sgd|adam|yogi ...]\n"
    "  [--aggregate=mean|trimmed_mean|median] [--quorum=N] [--beside=local,central]\n"
    "  [--private=epsilon:8,delta:1e-5,clip_norm:0.5] [--secure=32|64]\n"
    "  [--agreement=FILE]\n"
    "  [--poison=ID:sign_flip] [--slow=ID:0.25] [--leave=ID:ROUND]\n"
    "  [--config.KEY=VALUE ...]\n"
    "  CONFIG: a name (ner, ner:files) or --config=FILE.py[:variant]"
)
_ASKED, _LOCK = "asked.json", ".lock"
# What changes neither data nor model; at_once changes the last bits alone.
_FREE = ("at_once", "beside")


def federated(
    config: GivenConfig,
    workdir: str | pathlib.Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    reached: Callable[[Config, FederatedOptions, Progress], Simulation] = set_up,
    **options: Any,
) -> dict[str, Any]:
    """Simulates federated training and writes the run of the model that it comes to.

    Args:
      config: of the model, the data and the local steps, as for `train`.
      workdir: the run directory that is written; rounds are kept beside it, in WORKDIR-rounds.
      overrides: values of single keys of the config, by their dotted names.
      progress: where to show how far it is.
      reached: sets up clients and server; another one where clients are elsewhere (`federated_network`).
      options: those of the command line, by their names, as clients=10, split="dirichlet=0.1", rounds=20,
        method="fedprox", proximal=0.01 (`jaxfm.programs.federated_options.FederatedOptions`).

    Returns:
      The content of federated.json: "result" (the scores on the server's splits and over clients), "beside" (those of
      models that are compared with), "rounds", "clients", "traffic", "kept" (the round whose model it is).

    Raises:
      UserError: options out of range, a task without class labels, too few examples, a workdir of something else.
    """
    asked = options_of(options)
    resolved = resolve_config(config, overrides)
    folder = files.user_path(workdir, "--workdir")
    identity = _identity(resolved, asked)
    if is_whole(folder) and (folder / JSON_FILE).is_file():
        return _finished(folder, identity, asked)
    folder = new_output(folder)
    with contextlib.ExitStack() as held:
        held.enter_context(libraries_quieted())
        shown = held.enter_context(progress or Progress(None))
        home = _home(folder, identity)
        simulation = reached(resolved, asked, shown)
        home.mkdir(parents=True, exist_ok=True)
        held.enter_context(files.held(home / _LOCK, f"--workdir={folder}"))
        _remember(home, folder, identity, simulation)
        shown.say(_introduction(simulation))
        history, kept, values = run_rounds(simulation, home, shown)
        found = {
            "version": 1,
            "asked": identity,
            "metric": simulation.config.eval.metric,
            "kept": kept,
            "result": simulation.scores(values, shown),
            "beside": train_beside(simulation, home, shown),
            "clients": _clients(simulation, history),
            "rounds": history,
            "traffic": _traffic(simulation, history, values),
            **_privacy(simulation, len(history)),
        }
        _write(folder, simulation, found, values, shown)
        _show(found, folder, shown)
    return files.read_object(folder / JSON_FILE)


def write_agreement(
    config: GivenConfig, path: str | pathlib.Path, *, overrides: Mapping[str, Any] | None = None, **options: Any
) -> None:
    """Writes what the parties of a federation over a network must have alike; nothing is trained.

    Args:
      config: as for `federated`.
      path: a file of JSON.
      overrides: values of single keys of the config, by their dotted names.
      options: as for `federated`.

    Raises UserError for options that a network does not have, and for whatever the server's own source is refused for.
    """
    asked = options_of(options)
    federated_agreement.check(asked)
    agreed = agree(resolve_config(config, overrides))
    check_clients(asked, federated_agreement.count_of(asked), agreed.config.seed)
    federated_agreement.write(files.user_path(path, "--agreement"), agreed.config, asked)


def _identity(config: Config, options: FederatedOptions) -> dict[str, Any]:
    values = {name: value for name, value in dataclasses.asdict(options).items() if name not in _FREE}
    return to_json({"config": to_dict(config), **values})


def _home(folder: pathlib.Path, identity: Mapping[str, Any]) -> pathlib.Path:
    """Returns the folder of the rounds; UserError where it holds those of another command, or something else."""
    home = folder.with_name(f"{folder.name}-rounds")
    if (home / _ASKED).is_file():
        known = files.read_object(home / _ASKED)
        _compare(known, identity, f"--workdir={folder}: {home} holds rounds of")
    elif home.exists() and any(path.name != _LOCK for path in home.iterdir()):
        raise UserError(
            f"--workdir={folder}: {home}, where rounds are kept, holds something else. Name another workdir."
        )
    return home


def _remember(home: pathlib.Path, folder: pathlib.Path, identity: Mapping[str, Any], simulation: Simulation) -> None:
    """Keeps what rounds are of; UserError where the clients' data are others than before."""
    path = home / _ASKED
    if path.is_file():
        known = files.read_object(path)
        _compare(known, simulation.identity, f"--workdir={folder}: {home} holds rounds over other data:")
    files.write_json(path, {**identity, **simulation.identity})


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    names = [name for name in now if before.get(name) != now[name]]
    if names:
        said = ", ".join(
            name if isinstance(now[name], dict) else f"{name} {before.get(name)!r}, now {now[name]!r}" for name in names
        )
        raise UserError(f"{what} another command ({said}). Name another workdir.")


def _finished(folder: pathlib.Path, identity: Mapping[str, Any], options: FederatedOptions) -> dict[str, Any]:
    """Returns what a finished call has written; UserError where that was another command."""
    found = files.read_object(folder / JSON_FILE)
    _compare(found["asked"], identity, f"--workdir={folder}: holds what has come of")
    missing = [name for name in options.beside_names if name not in found["beside"]]
    if missing:
        raise UserError(
            f"--workdir={folder}: is finished, without --beside={','.join(missing)}. Remove it (not "
            f"{folder.name}-rounds, where the rounds are kept) and give the same command again."
        )
    with Progress(None) as shown:
        shown.say(f"finished before: round {found['kept']} is kept in {folder}")
        shown.table(tables.model_table(found))
    return found


def _introduction(simulation: Simulation) -> str:
    options, work, clients = simulation.options, simulation.work, simulation.clients
    sizes = [each.data.examples for each in clients]
    steps = sorted({each.steps for each in clients})
    many = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    trained, size = size_of(work.values_of(work.base)), simulation.setup.model_size
    return (
        f"{len(clients)} clients with {min(sizes):,} to {max(sizes):,} training examples, "
        f"{options.number_per_round(len(clients))} a round, {many} updates each of "
        f"{simulation.config.train.batch_size} rows; {options.rounds} rounds of {options.method}, server "
        f"{options.server_optimizer} of the {options.aggregate}\n"
        f"{size.trainable_parameters:,} of {size.parameters:,} parameters are trained and travel: "
        f"{trained / 1e6:,.2f} MB a client each way"
    )


def _clients(simulation: Simulation, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "client": client.number,
            "name": client.data.name,
            "examples": client.data.examples,
            "held_out": client.data.held_out_examples,
            "steps": client.steps,
            "classes": classes,
            "rounds": sum(client.number in each["answered"] for each in history),
        }
        for client, classes in zip(simulation.clients, simulation.dealt.classes, strict=True)
    ]


def _privacy(simulation: Simulation, rounds: int) -> dict[str, Any]:
    options, count = simulation.options, len(simulation.clients)
    spent = federated_protection.spent_in(options.server_rules(count, simulation.config.seed), options, rounds)
    return {} if spent is None else {"privacy": {**spent.to_json(), "sentence": str(spent)}}


def _traffic(simulation: Simulation, history: list[dict[str, Any]], values: Values) -> dict[str, int]:
    size = simulation.setup.model_size
    return {
        "bytes_down": sum(each["bytes_down"] for each in history),
        "bytes_up": sum(each["bytes_up"] for each in history),
        "bytes_of_values": size_of(values),
        "values": size.trainable_parameters,
        "parameters": size.parameters,
    }


def _write(
    folder: pathlib.Path, simulation: Simulation, found: dict[str, Any], values: Values, shown: Progress
) -> None:
    """Writes the run of the model, and the reports of the rounds into it."""
    params = simulation.work.params_of(values)
    begun = results.Start(simulation.config, simulation.first, simulation.task, simulation.setup, params)
    with written(folder) as made:
        results.write_run(begun, made, shown)
        compared, metric = tables.models(found), found["metric"]
        rounds = found["rounds"]
        series = {
            "server's valid": [(each["round"], each.get("valid", {}).get(metric)) for each in rounds],
            "mean of clients": [(each["round"], each.get("held_out", {}).get("mean")) for each in rounds],
            "worst client": [(each["round"], each.get("held_out", {}).get("worst")) for each in rounds],
        }
        levels = {
            f"{tables.TITLES[name]} (mean)": each["held_out"]["mean"]
            for name, each in compared.items()
            if name in BESIDE
        }
        plot_rounds(
            series,
            levels,
            [each["round"] for each in rounds if not each["accepted"]],
            {tables.TITLES[name]: list(each["held_out"]["clients"].values()) for name, each in compared.items()},
            made / "plots" / PICTURE,
            metric=metric,
            kept=found["kept"],
        )
        parts = [
            f"## {each.title}\n\n{to_markdown(each).strip()}"
            for each in (tables.model_table(found), tables.client_table(found), tables.round_table(found))
        ]
        lines = [tables.traffic(found), *federated_protection.lines(found), *tables.events(rounds)]
        federated_protection.write(made, found)
        text = "\n\n".join(["# Federated training", "\n".join(f"- {line}" for line in lines), *parts])
        files.write_text(made / MARKDOWN_FILE, f"{text}\n\n![Rounds](plots/{PICTURE})\n")
        files.write_json(made / JSON_FILE, to_json(found))


def _show(found: Mapping[str, Any], folder: pathlib.Path, shown: Progress) -> None:
    shown.table(tables.model_table(found))
    shown.table(tables.client_table(found))
    for line in tables.events(found["rounds"]):
        shown.say(line)
    for line in (tables.traffic(found), *federated_protection.lines(found)):
        shown.say(line)
    shown.say(f"round {found['kept']} of {len(found['rounds'])} is kept: {folder}")


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if values.config is None or not (values.workdir or values.agreement):
        raise UserError(f"--{'config' if values.config is None else 'workdir'} is missing.\n{USAGE}")
    program.say_shipped_config()
    options: dict[str, Any] = {each.name: values[each.name].value for each in dataclasses.fields(FederatedOptions)}
    if values.agreement:
        write_agreement(values.config, values.agreement, **options)
        print(f"what the parties must have alike: {values.agreement}")
        return
    federated(values.config, values.workdir, **options)
    print(f"run finished; report: {values.workdir}/{MARKDOWN_FILE}")


def run() -> None:
    """Defines the flags and runs the program."""
    program.define_config_flag()
    flags.DEFINE_string("workdir", None, "The run directory to write; the same one again goes on.")
    flags.DEFINE_string("agreement", None, "A file to write for parties over a network; nothing is trained then.")
    for each in dataclasses.fields(FederatedOptions):
        define = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}[type(each.default)]
        define(each.name, each.default, each.metadata["doc"])
    program.run(main, USAGE)
