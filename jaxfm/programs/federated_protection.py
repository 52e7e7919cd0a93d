"""What `--private` and `--secure` of `jaxfm federated` mean: the server that is told less, and what it has spent."""

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxfm.errors import UserError
from jaxfm.federation.aggregation import MEAN
from jaxfm.federation.corrections import SCAFFOLD
from jaxfm.federation.privacy import GaussianMechanism, Privacy, Spent, make_mechanism, read_privacy, spent
from jaxfm.federation.protected import ProtectedServer, fixed_point
from jaxfm.federation.server import Server, ServerRules
from jaxfm.federation.update import Values
from jaxfm.observe.studies import FOLDER, Study, write_study
from jaxfm.observe.tables import Cell, Table
from jaxfm.programs.federated_options import FederatedOptions

NOT_NOISED = (
    "This covers the model. The losses and scores of clients in this report are not noised: they are for the person "
    "who runs the simulation, not for those who are to learn nothing of a client."
)


def privacy_of(options: FederatedOptions) -> Privacy | None:
    """Returns what --private asks for."""
    return read_privacy([each.strip() for each in options.private.split(",") if each.strip()])


def check(options: FederatedOptions, clients: int) -> None:
    """Raises UserError for what does not go with private means, or with sums that hide their parts."""
    privacy = privacy_of(options)
    if privacy is None and not options.secure:
        return
    flag = f"--private={options.private}" if privacy is not None else f"--secure={options.secure}"
    needs = "one number bounds what a client moves a mean by" if privacy is not None else "the server sees a sum alone"
    rules = (
        (options.aggregate != MEAN, f"--aggregate={options.aggregate}", f"{needs}. Take --aggregate={MEAN}"),
        (
            options.method == SCAFFOLD,
            f"--method={SCAFFOLD}",
            "its control variates are a second thing that clients send. Take fedavg or fedprox",
        ),
        (
            privacy is not None and options.quorum > 0,
            f"--quorum={options.quorum}",
            "the clients' votes have no noise, and change the model. Leave it out",
        ),
        (
            privacy is not None and bool(options.secure) and options.number_per_round(clients) < clients,
            f"--per_round={options.per_round}",
            f"with --secure={options.secure}, whether enough clients came to read their sum would tell who was drawn. "
            "Take --per_round=all",
        ),
        (bool(options.poison) and bool(options.secure), f"--poison={options.poison}", "nobody would see who sent it"),
    )
    for holds, what, why in rules:
        if holds:
            raise UserError(f"{what}: does not go with {flag}: {why}.")
    if options.secure:
        fixed_point(options.secure, clients)


def make_server(
    values: Values, rules: ServerRules, options: FederatedOptions, *, examples: int, control: bool
) -> Server:
    """Returns the server of a simulation.

    Args:
      values: of round 0.
      rules: how it works.
      options: what is asked for.
      examples: training examples of all clients together.
      control: whether clients send control variates.

    Raises:
      UserError: a budget that cannot be kept, or an accountant that is not installed.
    """
    check(options, rules.clients)
    mechanism = mechanism_of(rules, options)
    if mechanism is None and not options.secure:
        return Server(values, rules, control=control)
    form = fixed_point(options.secure, rules.clients) if options.secure else None
    return ProtectedServer(values, rules, mechanism=mechanism, form=form, examples=examples)


def mechanism_of(rules: ServerRules, options: FederatedOptions) -> GaussianMechanism | None:
    """Returns the mechanism of --private, with the noise that its budget needs; None without."""
    privacy = privacy_of(options)
    if privacy is None:
        return None
    rate = rules.per_round / rules.clients
    return make_mechanism(privacy, clients=rules.clients, rate=rate, rounds=options.rounds, seed=rules.seed)


def spent_in(rules: ServerRules, options: FederatedOptions, rounds: int) -> Spent | None:
    """Returns what so many rounds have spent; None without --private."""
    privacy, mechanism = privacy_of(options), mechanism_of(rules, options)
    return None if privacy is None or mechanism is None else spent(mechanism, rounds, privacy.delta)


def lines(found: Mapping[str, Any]) -> list[str]:
    """Returns sentences of the report about what was protected, and how far."""
    said = []
    if (privacy := found.get("privacy")) is not None:
        said += [f"differential privacy: {privacy['sentence']}", NOT_NOISED]
    if bits := found["asked"].get("secure"):
        said.append(
            f"secure aggregation, simulated: updates were masked modulo 2^{bits}, and the server was given their sum"
        )
    return said


def write(folder: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Writes WORKDIR/studies/privacy.*, which model cards show, where the run is private."""
    if (privacy := found.get("privacy")) is None:
        return
    rows: list[tuple[Cell, ...]] = [(name, str(value)) for name, value in privacy.items() if name != "sentence"]
    table = Table("Differential privacy of clients", ("", "value"), rows)
    said = privacy["sentence"]
    summary = (f"{said[0].upper()}{said[1:]}.", "The unit is a client with all its examples.")
    study = Study("privacy", "Differential privacy of clients", summary, [table], privacy, 0)
    write_study(folder / FOLDER, study)
