"""The task `recommendation`: a table of interactions to an objective, rows and scores."""

import dataclasses
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm.config import AUTO, Config
from jaxfm.core.batch import Dataset
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import CAUSAL, FULL, EncoderConfig
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.data.records.histories import Histories, make_histories
from jaxfm.data.records.interactions import InteractionColumns, read_interactions
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.text.spread_rows import spread_index
from jaxfm.errors import UserError
from jaxfm.families.registry import token_presets, with_sight
from jaxfm.tasks.next_tokens import check_causal
from jaxfm.tasks.recommendation.catalogue import Catalogue, read_catalogue
from jaxfm.tasks.recommendation.checks import check_histories
from jaxfm.tasks.recommendation.objective import RecommendationObjective
from jaxfm.tasks.recommendation.predictor import RecommendationPredictor
from jaxfm.tasks.recommendation.rows import AskedRows, HistoryRows, asked_rows, training_rows
from jaxfm.tasks.recommendation.scorer import DIRECTIONS, METRIC, RecommendationScorer
from jaxfm.tasks.recommendation.spec import (
    CAUSAL_METHOD,
    FIRST_ITEM,
    NAME,
    RecommendationConfig,
    RecommendationSpec,
)

_SOME_ITEMS = 100  # of a catalogue, where there are no data
_ROW_MULTIPLE = 128
_DEFAULTS: Mapping[str, Any] = types.MappingProxyType(
    {
        "data.row_length": AUTO,
        "train.batch_size": 32,
        "train.epochs": 100.0,
        "optim.learning_rate": 1e-3,
    }
)


@dataclasses.dataclass(frozen=True, eq=False)
class RecommendationTask:
    """A recommender over packed histories (implements jaxfm.core.task.Task).

    Attributes:
      objective: model and loss.
      histories: of all users.
      targets: split -> what is predicted of it.
      rows: split -> packed histories.
      notes: lines for the log.
      chosen: keys that were left to the data.
    """

    objective: RecommendationObjective
    histories: Histories
    targets: Mapping[str, tuple[Any, ...]]
    rows: Mapping[str, HistoryRows]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    directions = DIRECTIONS

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Split -> packed histories."""
        return self.rows

    def scorer(self, split: str) -> RecommendationScorer:
        """Returns what scores a split."""
        rows, targets = self.rows[split], self.targets[split]
        assert isinstance(rows, AskedRows)
        return RecommendationScorer(self.histories, targets, rows, _seen(self.objective.spec, self.histories, targets))

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the catalogue."""
        counts = self.histories.counts().tolist()
        Catalogue(self.histories.items, tuple(counts)).save(workdir)
        write_spec(workdir, NAME, self.objective.spec)


class RecommendationDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = RecommendationConfig
    defaults = _DEFAULTS
    moved: Mapping[str, str] = types.MappingProxyType({})

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> RecommendationObjective:
        """Builds model and loss for a catalogue of some items, for shapes alone."""
        items = max(encoder.vocab_size - FIRST_ITEM, 1) or _SOME_ITEMS
        return RecommendationObjective.of(_spec(config, encoder, items), config.task)

    def create(self, config: Config, initial: Initial) -> tuple[RecommendationTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: weights (an item has none before it is trained), a source that cannot be read, nothing left.
        """
        if initial.params:
            raise UserError(
                "config.model.init: a recommender starts from scratch: its vocabulary are the items of the source. Set "
                "scratch, and a shape by config.model.preset."
            )
        histories = _histories(config)
        spec = _spec(config, initial.encoder, len(histories.items))
        training = [histories.training(user) for user in range(len(histories.users))]
        rows: dict[str, HistoryRows] = {"train": training_rows(spec, training, config.seed)}
        if not len(rows["train"]):
            raise UserError(f"{config.data.source}: no history has two items for training, so nothing can be learned.")
        targets = {
            split: _some(found, config.task.eval_users if split == "valid" else 0)
            for split, found in histories.targets.items()
        }
        rows |= {split: _asked(spec, histories, found) for split, found in targets.items()}
        notes = (*initial.notes, *histories.notes, *_notes(histories, targets, rows["train"]))
        chosen = {"data.row_length": spec.row_length, "eval.metric": METRIC}
        objective = RecommendationObjective.of(spec, config.task)
        return RecommendationTask(objective, histories, targets, rows, notes, chosen), {}

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        del initial
        return check_histories(_histories(config), config.task)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> RecommendationSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(RecommendationSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: no run of version 1 of config.json was of this task."""
        del values

    def reopen(
        self, workdir: pathlib.Path, spec: RecommendationSpec, config: Config, source: str, split: str
    ) -> RecommendationTask:
        """Builds the task of a trained run over one split of (other) interactions with the same catalogue."""
        catalogue = read_catalogue(workdir, spec.items)
        histories = _histories(dataclasses.replace(config, data=dataclasses.replace(config.data, source=source)))
        if histories.items != catalogue.items:
            new = len({*histories.items} - {*catalogue.items})
            raise UserError(
                f"{source}: after the filters of this run it has {len(histories.items):,} items, {new:,} of them new, "
                f"but the model was trained with {len(catalogue.items):,}: users of other items cannot be scored. Give "
                "the table that it was trained on, or train again."
            )
        if split not in histories.targets:
            raise UserError(f"--split={split}: a recommender is scored on valid or test.")
        targets = {split: histories.targets[split]}
        rows = {split: _asked(spec, histories, targets[split])}
        return RecommendationTask(
            RecommendationObjective.of(spec, config.task), histories, targets, rows, histories.notes
        )

    def predictor(self, workdir: pathlib.Path, spec: RecommendationSpec) -> RecommendationPredictor:
        """Returns what recommends items."""
        return RecommendationPredictor(spec, read_catalogue(workdir, spec.items))


def _histories(config: Config) -> Histories:
    task = config.task
    if by := split_keys(config.data):
        raise UserError(
            f"{by.said}: of a recommender's source the end of each history is held out, or what lies after a time. "
            "Leave it empty, and set config.task.split: leave_one_out, or time."
        )
    columns = InteractionColumns(task.user_column, task.item_column, task.time_column)
    return make_histories(
        read_interactions(config.data.source, columns),
        split=task.split,
        per_user=task.least_per_user,
        per_item=task.least_per_item,
        held_out=task.held_out,
    )


def _spec(config: Config, encoder: EncoderConfig, items: int) -> RecommendationSpec:
    """Returns what is trained: the encoder with the items as its vocabulary, and as many positions as are read."""
    task, causal = config.task, config.task.method == CAUSAL_METHOD
    if encoder.reads_patches:
        raise UserError(
            f"config.model: an encoder of family {encoder.family!r} reads patches, and this task reads items. Set "
            f"--config.model.preset={token_presets()[0]}, or another shape of texts."
        )
    if causal:
        check_causal(encoder, "config.task.method: set masked, or take an encoder of another family")
    if not task.separator.strip() and task.separator != "\t":
        raise UserError("config.task.separator: is blank, but must be told from the spaces in names, such as '|'.")
    length, given = task.history, config.data.row_length
    most = length + causal  # with a last target
    row_length = -(-most // _ROW_MULTIPLE) * _ROW_MULTIPLE if given == AUTO else given
    row_length = row_length if config.data.packed else most
    if row_length < most:
        raise UserError(
            f"config.data.row_length: is {row_length}, but a history has up to {most} items (config.task.history). "
            f"Set auto, or at least {most}."
        )
    shaped = dataclasses.replace(
        encoder,
        vocab_size=items + FIRST_ITEM,
        max_positions=most,
        position_offset=0,
        type_vocab_size=min(encoder.type_vocab_size, 1),
    )
    shaped = with_sight(shaped, CAUSAL if causal else FULL)
    return RecommendationSpec(
        encoder=shaped,
        row_length=row_length,
        method=task.method,
        history=length,
        repeats=task.repeats,
        top=task.top,
        separator=task.separator,
        packed=config.data.packed,
    )


def _some(targets: tuple[Any, ...], most: int) -> tuple[Any, ...]:
    return tuple(targets[number] for number in spread_index(len(targets), most).tolist())


def _seen(spec: RecommendationSpec, histories: Histories, targets: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """Returns of each target what its user took before, which is not recommended; nothing where repeats are."""
    if spec.repeats:
        return tuple(np.zeros(0, np.int32) for _ in targets)
    return tuple(np.unique(histories.before(target)) for target in targets)


def _asked(spec: RecommendationSpec, histories: Histories, targets: tuple[Any, ...]) -> AskedRows:
    before = [histories.before(target) for target in targets]
    gold = [histories.item(target) for target in targets]
    return asked_rows(spec, before, gold, _seen(spec, histories, targets))


def _notes(histories: Histories, targets: Mapping[str, tuple[Any, ...]], train: HistoryRows) -> tuple[str, ...]:
    """Says how much is learned from and predicted."""
    items = int(histories.counts().sum())
    parts = len(train.packed.example_locations)
    found = [
        f"train: {items:,} interactions, {parts:,} histories (or parts of them) in {len(train):,} rows",
        *(f"{split}: the next item of {len(found):,} users" for split, found in targets.items()),
    ]
    if len(targets.get("valid", ())) < len(histories.targets["valid"]):
        found.append(
            f"valid: {len(targets['valid']):,} of {len(histories.targets['valid']):,} users (config.task.eval_users)"
        )
    return tuple(found)
