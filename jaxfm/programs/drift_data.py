"""The two sides of `jaxfm.drift`: texts of a run's own splits, and new ones; and what is counted of them."""

# N records, K words or pieces

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm import files
from jaxfm.core.task import GivesProbabilities, GivesRecords, ReadsImages
from jaxfm.data.corpora.corpus import open_corpus
from jaxfm.data.corpora.pretraining import HOLDOUT
from jaxfm.data.records import in_memory
from jaxfm.data.records.near_texts import record_text
from jaxfm.data.records.source_keys import split_keys
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs.unlabelled_pool import Given, given_records, wanted_of
from jaxfm.training.saved_run import SavedRun

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LEAST = 20
"""Records of either side below which nothing is said."""
_WORD = re.compile(r"\w+|[^\w\s]")
_AT_ONCE = 1000  # texts that are tokenized together

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Side:
    """Records of one origin.

    Attributes:
      name: what a person calls them.
      records: those that are compared; with "gold" where they are labelled.
      available: how many there are.
    """

    name: str
    records: tuple[Record, ...]
    available: int

    @property
    def texts(self) -> list[str]:
        """The text of each record; of a pair both, with a line end between them."""
        return [record_text(record) for record in self.records]


class Reader:
    """Reads records that a run can be asked about; those of the run first."""

    def __init__(self, run: SavedRun, limit: int, seed: int):
        """Takes a run, the most records of a side (0: all), and the seed by which these are drawn.

        Raises UserError for a run that reads images.
        """
        self.run, self.predictor = run, run.predictor()
        self._limit, self._seed = limit, seed
        # Tasks over plain text would prepare it first, which takes long.
        self._documents_alone = run.config.data.source.startswith("text:")
        if isinstance(self.predictor, ReadsImages):
            raise UserError(
                f"--workdir={run.workdir}: is a run of the task {run.definition.name}, which reads images; words and "
                "vectors of texts are compared. jaxfm.stress --ood tells images of other domains."
            )

    @property
    def gives_probabilities(self) -> bool:
        """Whether the run says how likely classes are."""
        return isinstance(self.predictor, GivesProbabilities) and bool(self.predictor.probability)

    def of_run(self, split: str, source: str | None) -> Side:
        """Returns a split of the run's own data, or of another source like it.

        Raises UserError where it cannot be read.
        """
        source = source or self.run.config.data.source
        try:
            records = self._of_task(source, split)
        except UserError as error:
            raise UserError(
                f"--workdir={self.run.workdir}: what it was trained on cannot be read: {error} Name where it is by "
                "--reference=URI, or another split."
            ) from error
        return self._side(f"{split} of {source}", records)

    def new(
        self,
        data: Any,
        split: str,
        columns: Mapping[str, str],
        progress: Progress,
        *,
        labelled: bool,
    ) -> Side:
        """Returns the new records.

        Args:
          data: a file, a source or, in memory, texts or records.
          split: of a source.
          columns: of a file.
          progress: where to say which columns were read.
          labelled: whether their labels are read.

        Raises UserError as the readers.
        """
        if not isinstance(data, str):
            if labelled:
                with in_memory.provided(data, alone=split) as source:
                    return self._side("data in memory", self._of_task(source, split))
            given = Given(texts=data)
            return self._side("data in memory", self._unlabelled(given, columns, progress))
        if not is_source(data):
            if labelled:
                raise UserError(
                    f"--labelled: reads a source of labelled data, and --data={data} is a file of texts. Name its "
                    "folder, as jsonl:FOLDER with test.jsonl in it."
                )
            return self._side(data, self._unlabelled(Given(input=data), columns, progress))
        name = f"{split} of {data}"
        # Data of other tasks have no texts but those that their own readers find.
        if labelled or not isinstance(self.predictor, GivesProbabilities):
            return self._side(name, self._of_task(data, split))
        return self._side(name, self._unlabelled(Given(source=data, split=split), columns, progress))

    def _of_task(self, source: str, split: str) -> list[Record]:
        if not self._documents_alone:
            task = self.run.task(source, split)
            if isinstance(task, GivesRecords):
                return self._flat(task.labelled_records(split))
            self._documents_alone = True
        return self._documents(source, split)

    def _unlabelled(self, given: Given, columns: Mapping[str, str], progress: Progress) -> list[Record]:
        try:
            return self._flat(given_records(given, wanted_of(self.run, self.predictor, columns), progress))
        except UserError as error:  # of readers that other programs call by other flags
            raise UserError(re.sub("--(input|source)=", "--data=", str(error))) from error

    def _documents(self, source: str, split: str) -> list[Record]:
        """Returns documents of plain text."""
        data = self.run.config.data
        holdout = HOLDOUT if data.holdout is None else data.holdout
        splits = open_corpus(source, text_column=data.text_column, holdout=holdout, by=split_keys(data)).splits
        if split not in splits:
            raise UserError(f"{source} has no split {split!r}; it has: {', '.join(splits)}.")
        return [
            {"text": document.text, "origin": f"document {number}"}
            for number, document in enumerate(splits[split](), start=1)
        ]

    def _flat(self, records: Iterable[Record]) -> list[Record]:
        """Returns records that are not blank; of one whose texts are read singly, each text by itself."""
        found = []
        for record in records:
            apart: list[Record] = [record]
            if "pair" in record and not self.predictor.pairs:
                plain = {name: value for name, value in record.items() if name != "pair"}
                apart = [plain, {**plain, "text": record["pair"]}]
            found += [each for each in apart if record_text(each).strip()]
        return found

    def _side(self, name: str, records: Sequence[Record]) -> Side:
        if len(records) < LEAST:
            raise UserError(
                f"{name}: has {len(records)} records that are not blank; a comparison needs {LEAST} at least. Collect "
                "more before you ask."
            )
        if not 0 < self._limit < len(records):
            return Side(name, tuple(records), len(records))
        chosen = np.sort(np.random.default_rng(self._seed).choice(len(records), self._limit, replace=False))
        return Side(name, tuple(records[number] for number in chosen.tolist()), len(records))


def is_source(data: str) -> bool:
    """Whether --data names a source (jsonl:FOLDER) and not a file."""
    return re.match(r"[a-z_]+:", data) is not None or data == "quickstart"


def check_given(data: Any) -> None:
    """Raises UserError where a file is named that is not there; readers check sources."""
    if isinstance(data, str) and not is_source(data) and not files.user_path(data, "--data").exists():
        raise UserError(
            f"--data={data}: no such file. It is a file of texts (.txt, .jsonl, .csv ...) or a source (jsonl:FOLDER)."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Counted:
    """How often things occur in each record.

    Attributes:
      counts: sparse [N, K].
      names: of the things.
    """

    counts: Any
    names: tuple[str, ...]


def count_words(texts: Sequence[str]) -> Counted:
    """Counts words, small and great letters alike, and marks, each by itself."""
    return _counted([_WORD.findall(text.lower()) for text in texts])


def count_pieces(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> Counted:
    """Counts the pieces of a tokenizer, unknown ones too."""
    pieces: list[list[str]] = []
    for first in range(0, len(texts), _AT_ONCE):
        encoded = tokenizer(list(texts[first : first + _AT_ONCE]), add_special_tokens=False, verbose=False)
        pieces += [tokenizer.convert_ids_to_tokens(ids) for ids in encoded["input_ids"]]  # type: ignore[misc]
    return _counted(pieces)


def _counted(things: Sequence[Sequence[str]]) -> Counted:
    from scipy import sparse  # not at the start: half a second

    numbers: dict[str, int] = {}
    columns = [numbers.setdefault(each, len(numbers)) for record in things for each in record]
    rows = np.repeat(np.arange(len(things)), [len(record) for record in things])
    shape = (len(things), max(len(numbers), 1))
    counts = sparse.csr_array((np.ones(len(columns)), (rows, np.asarray(columns, np.int64))), shape=shape)
    return Counted(counts, tuple(numbers))
