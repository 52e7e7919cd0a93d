"""Changed copies of training records: training with the changes that `jaxfm.stress` tests with.

Rows are packed once, before training, so a copy is made where records are read, before they become tokens. It is a
function of (record, seed, number of the copy) alone: a resumed run has the same rows, and their fingerprint says so.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence

from jaxfm.core.records import Record, WordsRecord
from jaxfm.data.perturbations.kinds import GROUPS, KINDS, SEVERITIES, SYNONYMS, Resources, kinds_for, perturbed
from jaxfm.data.text.tagging import entity_spans
from jaxfm.errors import UserError
from jaxfm.schema import field

_KINDS_KEY = "config.task.perturb.kinds"


@dataclasses.dataclass(frozen=True)
class PerturbConfig:
    """Training on changed copies of the training records beside these."""

    kinds: str = field("", "changes of the copies, KIND=SEVERITY,... (typos=3,case=2), 1 to 5; empty: no copies")
    copies: int = field(
        1,
        "copies of each training record, each changed by one of the kinds; more records, so longer epochs",
        at_least=1,
    )


def parse_kinds(text: str, reads: str) -> list[tuple[str, int]]:
    """Returns the kinds with their severities, groups written out.

    Raises:
      UserError: what is not KIND=SEVERITY, an unknown kind, one that cannot change such records, or that needs a model.
    """
    found: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, equals, severity = (each.strip() for each in part.partition("="))
        if not equals or not re.fullmatch("[0-9]+", severity) or int(severity) not in SEVERITIES:
            raise UserError(
                f"{_KINDS_KEY}={text!r}: {part!r} is not KIND=SEVERITY, with a severity of 1 to 5: typos=3."
            )
        kinds_for(reads, [name], _KINDS_KEY)
        if KINDS[GROUPS.get(name, (name,))[0]].needs == SYNONYMS:
            raise UserError(f"{_KINDS_KEY}: {name!r} needs a masked language model, which training does not have.")
        found |= dict.fromkeys(GROUPS.get(name, (name,)), int(severity))
    return list(found.items())


def changed_copies(records: Sequence[Record], config: PerturbConfig, reads: str, seed: int) -> list[list[Record]]:
    """Returns as many lists of changed records as there are copies; none where no kind is named."""
    kinds = parse_kinds(config.kinds, reads)
    if not kinds:
        return []
    resources = Resources(training_entities(records))
    copies = []
    for copy in range(config.copies):
        changed = []
        for record in records:
            digest = hashlib.sha256(f"{seed} {copy} {record!r}".encode("utf-8", "surrogatepass")).digest()
            kind, severity = kinds[int.from_bytes(digest[:8], "big") % len(kinds)]
            changed.append(perturbed(record, kind, severity, seed, resources, copy))
        copies.append(changed)
    return copies


def training_entities(records: Sequence[Record]) -> dict[str, list[tuple[str, ...]]]:
    """Returns the entities of tagged records by type, each once, in order."""
    found: dict[str, dict[tuple[str, ...], None]] = {}
    for record in records:
        if isinstance(record, WordsRecord):
            for first, end, kind in entity_spans(record.tags):
                found.setdefault(kind, {})[record.words[first:end]] = None
    return {kind: list(each) for kind, each in found.items()}


def copies_note(config: PerturbConfig, records: int) -> list[str]:
    """Returns a line for the log; none without copies."""
    if not config.kinds:
        return []
    each = f"{config.copies} changed cop{'y' if config.copies == 1 else 'ies'} of each record"
    return [f"train: {each} ({config.copies * records:,}) beside the {records:,} as they are: {config.kinds}"]
