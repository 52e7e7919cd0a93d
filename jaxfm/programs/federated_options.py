"""What `jaxfm federated` is asked for: options with their checks, and what they mean for the rooms below."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError, did_you_mean
from jaxfm.federation.aggregation import MEAN, RULES, Aggregation
from jaxfm.federation.corrections import FEDAVG, METHODS
from jaxfm.federation.faults import DROP, PARTIAL, POISONS, Faults, parse_of_clients
from jaxfm.federation.local import LocalRules
from jaxfm.federation.rounds import Quorum
from jaxfm.federation.server import OPTIMIZERS, ServerRules
from jaxfm.federation.splits import FILES, parse_split

LOCAL, CENTRAL = BESIDE = ("local", "central")
ALL = "all"


def _option(default: Any, doc: str) -> Any:
    return dataclasses.field(default=default, metadata={"doc": doc})


@dataclasses.dataclass(frozen=True)
class FederatedOptions:
    """The options of a federated simulation, as the command line has them."""

    clients: str = _option("10", "How many; with --split=files a folder, of which each file or folder is a client.")
    split: str = _option("iid", "How training examples are dealt out: iid, dirichlet=ALPHA (by class), or files.")
    holdout: float = _option(0.2, "Share of its examples that each client holds out to score models on.")
    min_examples: int = _option(10, "Least examples of a client; a draw of Dirichlet that gives fewer is made again.")
    rounds: int = _option(10, "Rounds.")
    per_round: str = _option(ALL, "Clients that take part in a round, drawn anew: a number, a share as 0.5, or all.")
    local_steps: int = _option(0, "Updates of a client in a round; 0: --local_epochs.")
    local_epochs: float = _option(1.0, "Passes of a client over its examples in a round.")
    method: str = _option(FEDAVG, f"What clients minimise: {', '.join(METHODS)}.")
    proximal: float = _option(0.0, "The weight mu of FedProx' proximal term.")
    server_optimizer: str = _option("sgd", f"What moves the model by the mean difference: {', '.join(OPTIMIZERS)}.")
    server_rate: float = _option(1.0, "Its learning rate; sgd with 1 takes the mean as it is.")
    aggregate: str = _option(MEAN, f"How updates become one: {', '.join(RULES)} (of each coordinate).")
    trim: float = _option(0.1, "Share of the clients left out at either end, for trimmed_mean.")
    at_once: int = _option(1, "Clients trained in one program (vmap); 1: one after the other.")
    stragglers: float = _option(0.0, "Share of a round's clients that get through a part of their updates alone.")
    slow: str = _option("", "Speeds of slow clients, as 3:0.25,7:0.5.")
    deadline: float = _option(1.0, "When the server goes on, in times that a client of speed 1 needs.")
    late: str = _option(PARTIAL, f"What becomes of the work of a client that is not done then: {PARTIAL} or {DROP}.")
    leave: str = _option("", "Clients that are gone from a round on, as 4:6.")
    fail: float = _option(0.0, "Share of a round's clients that do not answer, drawn anew.")
    poison: str = _option("", f"Clients that send poison, as 3:sign_flip: {', '.join(POISONS)}.")
    poison_scale: float = _option(1.0, "What a poisoned update is multiplied by.")
    quorum: int = _option(0, "Clients, drawn anew, that score a round's model before it is taken; 0: it is taken.")
    tolerance: float = _option(0.0, "How much worse for a client a model may be that it does not vote against.")
    private: str = _option(
        "", "Differential privacy of clients, as epsilon:8,delta:1e-5,clip_norm:0.5, or noise:1.1,..."
    )
    secure: int = _option(0, "Simulated secure aggregation of updates modulo 2^32 or 2^64: 32 or 64; 0: none.")
    eval_every: int = _option(1, "Rounds between two evaluations.")
    beside: str = _option("", "What is trained to compare with: local, central, or both with a comma.")

    def __post_init__(self) -> None:
        """Raises UserError for values of a wrong type or form, or out of range, whatever the data are."""
        for each in dataclasses.fields(self):
            value, kind = getattr(self, each.name), type(each.default)
            if kind is str and isinstance(value, int | float | pathlib.Path) and not isinstance(value, bool):
                object.__setattr__(self, each.name, str(value))
            elif kind is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, each.name, float(value))
            elif type(value) is not kind:
                raise UserError(f"{each.name}: is {value!r}, but must be a {kind.__name__}.")
        self._check()
        by_files = parse_split(self.split).kind == FILES
        if by_files == self.clients.isdigit():
            need = "names a folder with --split=files" if by_files else "is a number, unless --split=files"
            raise UserError(f"--clients={self.clients}: {need}.")
        if not by_files:
            clients = int(self.clients)
            self.server_rules(clients, 0)
            self.faults(clients, 0)
            self.check_quorum(clients)

    def _check(self) -> None:
        if not 0 < self.holdout < 1:
            raise UserError(
                f"--holdout={self.holdout:g}: must be above 0 and below 1: clients score models on what they hold out."
            )
        for option, least in (("min_examples", 2), ("rounds", 1), ("at_once", 1), ("quorum", 0), ("eval_every", 1)):
            if (value := getattr(self, option)) < least:
                raise UserError(f"--{option}={value}: must be at least {least}.")
        if self.tolerance < 0:
            raise UserError(f"--tolerance={self.tolerance:g}: must be at least 0.")
        for name in self.beside_names:
            if name not in BESIDE:
                raise UserError(f"--beside={self.beside}: {name!r} is unknown. {did_you_mean(name, BESIDE)}")
        self.local_rules(1)
        Aggregation(self.aggregate, self.trim)

    @property
    def beside_names(self) -> tuple[str, ...]:
        """What is trained to compare with."""
        return tuple(filter(None, (each.strip() for each in self.beside.split(","))))

    def folder(self) -> pathlib.Path:
        """Returns the folder of the clients of --split=files; UserError where it is none."""
        folder = files.user_path(self.clients, "--clients")
        if not folder.is_dir():
            raise UserError(
                f"--clients={self.clients}: is no folder. Name one of which each file or folder is a client."
            )
        return folder

    def number_per_round(self, clients: int) -> int:
        """Returns how many clients take part in a round."""
        text = self.per_round
        if text == ALL:
            return clients
        try:
            value = float(text) if "." in text else int(text)
        except ValueError:
            value = 0
        if isinstance(value, float) and 0 < value <= 1:
            return max(1, round(value * clients))
        if isinstance(value, int) and 1 <= value <= clients:
            return value
        raise UserError(
            f"--per_round={text}: must be 'all', a number from 1 to the {clients} clients, or a share as 0.5."
        )

    def local_rules(self, stride: int) -> LocalRules:
        """Returns how clients train; `stride` is what a round moves the schedule by."""
        return LocalRules(self.method, self.proximal, self.local_steps, self.local_epochs, stride)

    def server_rules(self, clients: int, seed: int) -> ServerRules:
        """Returns how the server works."""
        how = Aggregation(self.aggregate, self.trim)
        if clients < 1:
            raise UserError(f"--clients={self.clients}: must be at least 1.")
        return ServerRules(clients, self.number_per_round(clients), seed, how, self.server_optimizer, self.server_rate)

    def faults(self, clients: int, seed: int) -> Faults:
        """Returns what goes wrong; UserError for clients that do not exist."""
        found = Faults(
            seed=seed,
            stragglers=self.stragglers,
            slow=parse_of_clients(self.slow, "slow", float, "3:0.25"),
            deadline=self.deadline,
            late=self.late,
            gone=parse_of_clients(self.leave, "leave", int, "4:6"),
            fail=self.fail,
            poison=parse_of_clients(self.poison, "poison", str, "3:sign_flip"),
            poison_scale=self.poison_scale,
        )
        found.check(clients)
        return found

    def check_quorum(self, clients: int) -> None:
        """Raises UserError for a quorum of more clients than there are."""
        if self.quorum > clients:
            raise UserError(f"--quorum={self.quorum}: is more than the {clients} clients.")

    def of_quorum(self, clients: int, seed: int) -> Quorum:
        """Returns who votes."""
        self.check_quorum(clients)
        return Quorum(self.quorum, self.tolerance, seed)


def options_of(values: Mapping[str, Any]) -> FederatedOptions:
    """Returns options by their names; UserError for an unknown one, with the nearest."""
    names = [each.name for each in dataclasses.fields(FederatedOptions)]
    for name in values:
        if name not in names:
            raise UserError(f"{name}: is no option of federated training. {did_you_mean(name, names)}")
    return FederatedOptions(**values)
