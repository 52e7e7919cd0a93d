"""Tasks by the name that `config.task.name` gives, and whole configs: the trainer's keys with those of a task."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import ml_collections

from jaxfm import schema
from jaxfm.config import Config
from jaxfm.core.encoder_config import LARGEST, EncoderConfig, UnfitShapeError
from jaxfm.core.extensions import Origin, check_same_origin, metrics_of, origin_of, registered_loss
from jaxfm.core.grown_head import check_grows
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.objective import Objective
from jaxfm.core.spec import SPEC_FILE, Spec, read_spec_values
from jaxfm.core.task import Task, TaskDefinition
from jaxfm.errors import UserError, did_you_mean
from jaxfm.models.adapters import with_adapters
from jaxfm.tasks.audio_classification.task import AudioClassificationDefinition
from jaxfm.tasks.causal_lm.task import CausalLMDefinition
from jaxfm.tasks.classification.task import ClassificationDefinition
from jaxfm.tasks.detection.task import DetectionDefinition
from jaxfm.tasks.embedding.task import EmbeddingDefinition
from jaxfm.tasks.image_classification.task import ImageClassificationDefinition
from jaxfm.tasks.image_generation.task import ImageGenerationDefinition
from jaxfm.tasks.image_text.task import ImageTextDefinition
from jaxfm.tasks.late_interaction.task import LateInteractionDefinition
from jaxfm.tasks.masked_images.task import MaskedImagesDefinition
from jaxfm.tasks.masked_lm.task import MaskedLMDefinition
from jaxfm.tasks.masked_sound.task import MaskedSoundDefinition
from jaxfm.tasks.ner.task import NerDefinition
from jaxfm.tasks.nested_ner.task import NestedNerDefinition
from jaxfm.tasks.qa.task import QaDefinition
from jaxfm.tasks.recommendation.task import RecommendationDefinition
from jaxfm.tasks.relations.task import RelationsDefinition
from jaxfm.tasks.replaced_token.task import ReplacedTokenDefinition
from jaxfm.tasks.seq2seq.task import Seq2SeqDefinition
from jaxfm.tasks.speech_recognition.task import SpeechRecognitionDefinition
from jaxfm.tasks.zero_shot_ner.task import ZeroShotNerDefinition

_DEFINITIONS: dict[str, TaskDefinition] = {}
_GROUP = "task"
Role = TypeVar("Role")
# What `config.task` once was, a name.
TASK_IS_A_GROUP = "config.task: is a group of keys now. Set config.task.name, or start from default_config(NAME)."


def register(definition: TaskDefinition) -> None:
    """Makes a task known under its name.

    Raises UserError where another one has that name; the same class once more (a notebook's cell that is run again)
    replaces it.
    """
    old = _DEFINITIONS.get(definition.name)
    if old is not None:
        check_same_origin("task", definition.name, origin_of(definition), origin_of(old))
    _DEFINITIONS[definition.name] = definition


for _definition in (
    NerDefinition(),
    NestedNerDefinition(),
    ZeroShotNerDefinition(),
    ClassificationDefinition(),
    EmbeddingDefinition(),
    LateInteractionDefinition(),
    QaDefinition(),
    RelationsDefinition(),
    Seq2SeqDefinition(),
    MaskedLMDefinition(),
    ReplacedTokenDefinition(),
    CausalLMDefinition(),
    ImageClassificationDefinition(),
    MaskedImagesDefinition(),
    ImageTextDefinition(),
    DetectionDefinition(),
    AudioClassificationDefinition(),
    ImageGenerationDefinition(),
    SpeechRecognitionDefinition(),
    MaskedSoundDefinition(),
    RecommendationDefinition(),
):
    register(_definition)


def names() -> tuple[str, ...]:
    """Returns the names of all tasks."""
    return tuple(_DEFINITIONS)


def definition(name: str) -> TaskDefinition:
    """Returns the task of that name; an unknown one is a UserError that names the nearest."""
    if name not in _DEFINITIONS:
        raise UserError(f"config.task.name: {name!r} is not a task. {did_you_mean(name, _DEFINITIONS)}")
    return _DEFINITIONS[name]


def definition_with(role: type[Role]) -> Role:
    """Returns the first task that has a further role, a protocol beside `core.task.TaskDefinition`."""
    return next(each for each in _DEFINITIONS.values() if isinstance(each, role))


def default_config(task: str) -> ml_collections.ConfigDict:
    """Returns the defaults of all keys of a task's run as a locked ConfigDict: where every config file starts."""
    return schema.to_config_dict(from_config_dict({_GROUP: {"name": task}}))


def from_config_dict(values: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """Turns a ConfigDict (or nested mapping) into a checked `Config`; keys left out take the task's defaults.

    Raises:
      UserError: an unknown key (with the nearest one, or where it is now), a value of a wrong type, out of range or not
        among the choices.
    """
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    group = values.get(_GROUP, {})
    if not isinstance(group, Mapping):
        raise UserError(TASK_IS_A_GROUP)
    if "name" not in group:
        raise UserError(f"config.task.name: is missing. It is one of {', '.join(_DEFINITIONS)}.")
    found = definition(str(group["name"]))
    # Keys that every old config had, of whichever task, are explained by that task's own table first.
    moved = {**_all_moved(), **found.moved}
    return schema.build(Config, _with_defaults(values, found), groups={_GROUP: found.config_class}, moved=moved)


def _with_defaults(values: Mapping[str, Any], task: TaskDefinition) -> dict[str, Any]:
    """Returns the values with the defaults of a task's runs for the keys that they leave out."""
    result = dict(values)
    own = {each.name for each in dataclasses.fields(task.config_class)}
    for key, default in task.defaults.items():
        group, _, name = key.partition(".")
        if group == _GROUP and name not in own:
            continue  # of a task that was made from another one, with other keys
        inside = result.get(group, {})
        if isinstance(inside, Mapping):  # else the schema says what is wrong
            result[group] = {name: default, **inside}
    return result


def check_key(key: str) -> None:
    """Raises UserError, naming the nearest one, unless `key` ("optim.learning_rate") is a key of some task's config."""
    if key == _GROUP:
        raise UserError(TASK_IS_A_GROUP)
    classes = [each.config_class for each in _DEFINITIONS.values()]
    schema.check_key(Config, key, groups={_GROUP: classes}, moved=_all_moved())


def all_keys() -> dict[str, schema.Key]:
    """Returns the keys of every task's config by their dotted names, with their defaults."""
    found: dict[str, schema.Key] = {}
    for each in _DEFINITIONS.values():
        for key in schema.describe(Config(task=each.config_class())):
            found.setdefault(key.name, key)
    return found


def where_moved(name: str) -> str:
    """Returns where a key or group of an older config is now; "" where there was none of that name."""
    moved = _all_moved()
    inside = [key for key in moved if key == name or key.startswith(f"{name}.") or key.endswith(f".{name}")]
    if not inside:
        return ""
    old, _, rest = inside[0].partition(".")
    return schema.unknown_key(old, rest, (), moved=moved)


def upgrade_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of a run of version 1 of config.json in today's keys.

    Raises:
      UserError: it is of no task of this jaxfm, or has a key that no version had.
    """
    for each in _DEFINITIONS.values():
        found = each.upgrade_config(values)
        if found is not None:
            _check_older_keys(values)
            return found
    raise UserError(f"config.task: {values.get('task')!r} is not a task of this jaxfm.")


def create(config: Config, initial: Initial) -> tuple[Task, Mapping[str, HostArray]]:
    """Builds a new run's task from its config and what `config.model` resolves to.

    Returns the task and its loaded parameters (path -> array; the others start at random).
    """
    initial = dataclasses.replace(initial, encoder=with_adapters(initial.encoder, config.adapt))
    found = definition(config.task.name)
    check_grows(found, config)
    return found.create(config, initial)


def abstract_objective(config: Config, encoder: EncoderConfig) -> Objective:
    """Builds a run's model and loss for an encoder's shape, without data, weights or tokenizer."""
    return definition(config.task.name).abstract_objective(config, with_adapters(encoder, config.adapt))


def extensions_of(config: Config) -> list[tuple[str, str, Origin]]:
    """Returns kind, name and origin of what a run uses from outside the package: its task, its loss, its metrics."""
    task = config.task.name
    found = [("task", task, origin_of(definition(task)))]
    loss = registered_loss(getattr(getattr(config.task, "loss", None), "function", ""))
    if loss is not None:
        found.append(("loss", loss.name, loss.origin))
    found += [("metric", metric.name, metric.origin) for metric in metrics_of(task)]
    return [each for each in found if not each[2].module.startswith("jaxfm.")]


def read_spec(workdir: pathlib.Path, config: Mapping[str, Any]) -> tuple[TaskDefinition, Spec]:
    """Reads task.json of a run: which task it is of, and what its model is beside the weights.

    Args:
      workdir: the run directory.
      config: the run's config, nested groups.

    Raises:
      UserError: the file is absent or damaged, or of no task of this jaxfm.
    """
    values = read_spec_values(workdir)
    for each in _DEFINITIONS.values():
        if each.reads(values):
            with _explained(workdir):
                spec = each.read_spec(values, config)
                if not 0 < spec.row_length <= LARGEST["max_positions"]:
                    raise UserError(f"{values.path}: row_length is {spec.row_length!r:.40}, not a number of positions.")
                return each, spec
    raise UserError(
        f"{values.path}: task {values['task']!r} is not one of this jaxfm. {did_you_mean(values['task'], _DEFINITIONS)}"
    )


def _check_older_keys(values: Mapping[str, Any]) -> None:
    """Raises UserError for a key that no config of version 1 had: it had all keys of all tasks."""
    known, moved = schema.flatten(schema.to_dict(Config())), tuple(_all_moved())
    for key in schema.flatten(values):
        if key not in known and key != _GROUP and not schema.is_under(key, moved):
            group = key.rpartition(".")[0]
            beside = [name.removeprefix(f"{group}.") for name in known if name.rpartition(".")[0] == group]
            raise UserError(schema.unknown_key(key, "", beside))


def _all_moved() -> dict[str, str]:
    return {key: new for each in _DEFINITIONS.values() for key, new in each.moved.items()}


@contextlib.contextmanager
def _explained(workdir: pathlib.Path) -> Iterator[None]:
    """Says of values in task.json that no task can be made of (wrong kinds, unknown keys) in which file they are."""
    try:
        yield
    except (TypeError, AttributeError, KeyError, UnfitShapeError) as error:
        raise UserError(
            f"{workdir / SPEC_FILE}: is not a task that this jaxfm knows ({error}). Take it from a backup of the "
            "run, or train again."
        ) from error
