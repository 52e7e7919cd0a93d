"""The task `image_text`: a source of images with texts to an objective, rows and scores."""

# E pairs, L tokens of a text

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.config import AUTO_METRIC, Config, ModelConfig
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.core.towers import TowersConfig
from jaxfm.data.images.examples import ImageExample, ImageSplit, read_images
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.families.models import tower_shapes
from jaxfm.hub import initial as hub_initial
from jaxfm.schema import replaced
from jaxfm.tasks.fine_tuning import open_tokenizer
from jaxfm.tasks.image_checks import check_images
from jaxfm.tasks.image_options import Reading, augmentation, image_columns
from jaxfm.tasks.image_rows import image_rows, kept_examples, read_rows, with_statistics
from jaxfm.tasks.image_text.objective import ImageTextObjective
from jaxfm.tasks.image_text.predictor import ImageTextPredictor
from jaxfm.tasks.image_text.rows import PairRows, pair_numbers, text_rows
from jaxfm.tasks.image_text.scorer import ImageTextScorer, directions
from jaxfm.tasks.image_text.spec import NAME, NUMBERS, ImageTextConfig, ImageTextSpec
from jaxfm.tasks.image_text.towers import towers_of
from jaxfm.tasks.media_options import DEFAULTS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_METRIC = "recall@1"
_SOME_TEXT = 16  # tokens, where no data says how many
_UNUSED = "weights not used"  # by an image encoder alone, of the pair that it is of


@dataclasses.dataclass(frozen=True)
class ImageTextTask:
    """Two towers with the splits of one source (implements jaxfm.core.task.Task)."""

    objective: ImageTextObjective
    tokenizer: "PreTrainedTokenizerFast"
    examples: Mapping[str, tuple[ImageExample, ...]]
    datasets: Mapping[str, PairRows]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return directions(self.objective.spec)

    def scorer(self, split: str) -> ImageTextScorer:
        """Returns what scores a split."""
        return ImageTextScorer(self.objective.spec, self.examples[split], self.datasets[split])

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        write_spec(workdir, NAME, self.objective.spec)


class ImageTextDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = ImageTextConfig
    defaults = {**DEFAULTS, "train.batch_size": 128}
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> ImageTextObjective:
        """Builds model and loss without data, weights or tokenizer, for shapes alone."""
        _check_rows(config)
        pair = None if config.task.text_init else hub_initial.pair_shape(config.model)
        text = pair.text if pair else hub_initial.shape(_text_model(config))[0]
        reading = Reading.of(config, encoder)
        towers = towers_of(config.task, reading.encoder, text, pair)
        length = text.max_positions if text.reads_padding else min(config.task.text_length, _SOME_TEXT)
        spec = _spec(config, reading, towers, length, ())
        return ImageTextObjective(spec, augmentation(config, mixes=False))

    def create(self, config: Config, initial: Initial) -> tuple[ImageTextTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, an image without its text, one that cannot be decoded, no text encoder.
        """
        _check_rows(config)
        reading = Reading.of(config, initial.encoder, initial.images)
        text, pair = _text_tower(config)
        towers = towers_of(config.task, reading.encoder, text.encoder, pair)
        tokenizer = open_tokenizer(text, needs_ends=towers.text_pooling in ("cls", "pooler"))
        read = _read(config, None)
        images = read_rows(reading, read, config)
        reading, pixel_notes = with_statistics(reading, images["train"])
        examples = {split: kept_examples(found.examples, images[split]) for split, found in read.items()}
        labels = _labels(config, examples["train"])
        length = _text_length(config, tokenizer, [each.text for each in examples["train"]], text.encoder)
        spec = _spec(config, reading, towers, length, labels)
        datasets, cut_notes = {}, []
        for split, found in examples.items():
            datasets[split], cut = _pair_rows(spec, tokenizer, images[split], found, classes=split != "train")
            cut_notes += [f"{split}: {cut:,} texts cut to {length} tokens"] if cut else []
        params, used_notes = _params(spec, initial, text)
        distinct = len({each.text for each in examples["train"]})
        notes = (
            *(note for note in initial.notes if not (pair and note.startswith(_UNUSED))),
            *used_notes,
            *(f"text encoder: {note}" for note in text.notes),
            *(found.note for found in read.values()),
            *(note for found in images.values() for note in found.notes),
            *pixel_notes,
            f"texts: {distinct:,} different ones in {len(examples['train']):,} training pairs, {length} tokens a row",
            *cut_notes,
        )
        metric = _METRIC if config.eval.metric == AUTO_METRIC else config.eval.metric
        chosen = {
            "data.row_length": spec.row_length,
            "eval.metric": metric,
            **{f"task.{key}": getattr(spec, key) for key in ("loss", "image_pooling", "text_pooling", "dimension")},
        }
        objective = ImageTextObjective(spec, augmentation(config, mixes=False))
        return ImageTextTask(objective, tokenizer, examples, datasets, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        reading = Reading.of(config, initial.encoder, initial.images)
        kind = "single" if config.task.label_prompt else "none"
        return check_images({split: found.examples for split, found in _read(config, None).items()}, reading, kind)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> ImageTextSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(ImageTextSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: no older jaxfm had this task."""
        del values

    def reopen(
        self, workdir: pathlib.Path, spec: ImageTextSpec, config: Config, source: str, split: str
    ) -> ImageTextTask:
        """Builds the task of a trained run over one split of (other) pairs, for evaluation."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        ((split, found),) = _read(replaced(config, {"data.source": source}), (split,)).items()
        images = image_rows(spec, [each.image for each in found.examples], broken=config.task.broken_images)
        examples = kept_examples(found.examples, images)
        _check_labels(spec, examples)
        rows, cut = _pair_rows(spec, tokenizer, images, examples, classes=True)
        notes = (found.note, *images.notes, *([f"{split}: {cut:,} texts cut"] if cut else []))
        return ImageTextTask(ImageTextObjective(spec), tokenizer, {split: examples}, {split: rows}, notes)

    def predictor(self, workdir: pathlib.Path, spec: ImageTextSpec) -> ImageTextPredictor:
        """Returns what makes vectors of images and texts, and compares images with classes."""
        return ImageTextPredictor(spec, load_tokenizer(workdir / TOKENIZER_DIR), spec.labels)


def _check_rows(config: Config) -> None:
    if config.data.packed or config.task.resize == "native":
        key = "data.packed: is True" if config.data.packed else "task.resize: is 'native'"
        raise UserError(f"config.{key}, but here a row is one image and its text. Take data.packed=False, resize=crop.")


def _text_model(config: Config) -> ModelConfig:
    """Returns what names the text encoder, in the form of the group `model`."""
    task = config.task
    if task.text_init.startswith("run:"):
        raise UserError(f"config.task.text_init: {task.text_init!r}; export that run and take dir: of the directory.")
    tokenizer = config.model.tokenizer
    sizes = dict.fromkeys(hub_initial.SIZES, 0)  # those of the config are of the image encoder
    return dataclasses.replace(config.model, init=task.text_init, preset=task.text_preset, tokenizer=tokenizer, **sizes)


def _text_tower(config: Config) -> tuple[Initial, TowersConfig | None]:
    """Returns the text encoder with its weights, and the pair that both encoders are of where it is that of one."""
    if config.task.text_init:
        text = hub_initial.resolve(_text_model(config), tower=True)
        if text.encoder.reads_patches:
            raise UserError(f"config.task.text_init: {config.task.text_init!r} reads images; take an encoder of texts.")
        return text, None
    pair, tokenizer = hub_initial.resolve_pair(config.model)
    params = {path: value for path, value in pair.params.items() if not path.startswith("encoder/")}
    return Initial(pair.towers.text, params, (), tokenizer, pair.notes), pair.towers


def _read(config: Config, splits: Sequence[str] | None) -> dict[str, ImageSplit]:
    return read_images(
        config.data.source,
        splits,
        columns=image_columns(config),
        holdout=config.data.holdout,
        by=split_keys(config.data),
        labels="single" if config.task.label_prompt else "none",
        texts=True,
    )


def _labels(config: Config, train: Sequence[ImageExample]) -> tuple[str, ...]:
    """Returns the classes of the source, where they are read."""
    prompt = config.task.label_prompt
    if not prompt:
        return ()
    if "{}" not in prompt:
        raise UserError(f"config.task.label_prompt: is {prompt!r}, but {{}} must stand where the class's name goes.")
    return tuple(sorted({label for each in train for label in each.labels}))


def _check_labels(spec: ImageTextSpec, examples: Sequence[ImageExample]) -> None:
    for each in examples:
        if spec.labels and each.labels[0] not in spec.labels:
            raise UserError(f"{each.origin}: the label {each.labels[0]!r} does not occur in the training data.")


def _text_length(
    config: Config, tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str], encoder: EncoderConfig
) -> int:
    """Returns the tokens of a text's row: those of the longest training text, in eights, at most what is asked for.

    An encoder that reads padding has rows of one length.
    """
    most = encoder.max_positions
    if encoder.reads_padding:
        if config.task.text_length < most:
            raise UserError(
                f"config.task.text_length: is {config.task.text_length}, but this text encoder reads texts that are "
                f"padded to {most} tokens. Take {most}."
            )
        return most
    longest = max(len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"])
    return min(-(-longest // 8) * 8, config.task.text_length, most)


def _pair_rows(
    spec: ImageTextSpec,
    tokenizer: "PreTrainedTokenizerFast",
    images: Any,
    examples: Sequence[ImageExample],
    *,
    classes: bool,
) -> tuple[PairRows, int]:
    """Returns the rows of a split, with the texts of classes after them, and how many texts had to be cut."""
    texts = [each.text for each in examples]
    prompts = [spec.label_prompt.replace("{}", label) for label in spec.labels] if classes else []
    arrays, cut = text_rows(spec, tokenizer, [*texts, *prompts])
    numbers = pair_numbers(images, texts)
    arrays[NUMBERS] = np.concatenate([numbers, np.full((len(prompts), 2), -1, np.int32)])
    fields = {name: spec.batch_spec()[name] for name in arrays}
    return PairRows(images, arrays, fields), cut


def _params(spec: ImageTextSpec, initial: Initial, text: Initial) -> tuple[dict[str, HostArray], tuple[str, ...]]:
    """Returns the loaded parameters of both towers under the names of `TwoTowers`, and notes of what is left over."""
    found: dict[str, HostArray] = {}
    notes: list[str] = []
    if not _is_own(text):  # a pair, whose names are those of `TwoTowers`
        names = tower_shapes(spec.towers)
        found = {name: value for name, value in text.params.items() if name in names}
        left = sorted(set(text.params) - set(found))
        notes += [f"weights not used: {', '.join(left)}"] if left else []
        return {**found, **{path: value for path, value in initial.params.items() if path in names}}, tuple(notes)
    for start, tower, pooling, prefix in (
        (initial, "encoder/", spec.image_pooling, "image_"),
        (text, "text_encoder/", spec.text_pooling, "text_"),
    ):
        used = ("encoder/", *(("pooler/",) if pooling == "pooler" else ()))
        notes += [f"{prefix.removesuffix('_')} tower: {note}" for note in start.left_over(used)]
        for name, value in start.params.items():
            if name.startswith("encoder/"):
                found[tower + name.removeprefix("encoder/")] = value
            elif name.startswith(used):
                found[prefix + name] = value
    return found, tuple(notes)


def _is_own(text: Initial) -> bool:
    """Whether a text encoder comes without the image encoder of a pair."""
    return not any(name.startswith("text_encoder/") for name in text.params)


def _spec(
    config: Config, reading: Reading, towers: TowersConfig, length: int, labels: tuple[str, ...]
) -> ImageTextSpec:
    return ImageTextSpec(
        encoder=reading.encoder,
        text_encoder=towers.text,
        layout=reading.layout,
        row_length=reading.row_length,
        text_length=length,
        image_pooling=towers.image_pooling,
        text_pooling=towers.text_pooling,
        dimension=towers.dimension,
        loss="sigmoid" if towers.bias else "infonce",
        label_prompt=config.task.label_prompt,
        labels=labels,
        image_projection=towers.image_projection,
        text_bias=towers.text_bias,
    )
