"""Which task a name, a config or a task.json is of, and where keys of older configs are now."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from jaxfm.core.encoder_config import CAUSAL, PatchConfig
from jaxfm.core.spec import SPEC_VERSION
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.families.vit import image_encoder
from jaxfm.schema import describe, field, to_dict
from jaxfm.tasks import registry
from jaxfm.tasks.ner.task import NerDefinition
from jaxfm.training.initial import resolve
from tests import tiny

TASKS = tuple(
    "ner nested_ner zero_shot_ner classification embedding late_interaction qa relations seq2seq masked_lm "
    "replaced_token causal_lm image_classification masked_images image_text detection audio_classification "
    "image_generation speech_recognition masked_sound recommendation".split()
)  # fmt: skip


def defaults(name: str, /, **groups: Any) -> dict[str, Any]:
    """The defaults of a task's run as nested dicts, with groups or keys added; `data={"context": ...}` adds to data."""
    values = to_dict(registry.from_config_dict(registry.default_config(name)))
    for group, added in groups.items():
        values[group] = {**values.get(group, {}), **added} if isinstance(added, dict) else added
    return values


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        registry.from_config_dict(values)
    return str(caught.value)


@pytest.mark.parametrize("task", TASKS)
def test_a_config_has_the_keys_of_its_task(task: str) -> None:
    assert task in registry.names() and registry.definition(task).name == task
    config = registry.from_config_dict(registry.default_config(task))
    assert type(config.task) is registry.definition(task).config_class and config.task.name == task
    assert registry.from_config_dict(to_dict(config)) == config
    for key in to_dict(config)["task"]:
        registry.check_key(f"task.{key}")


def test_an_unknown_task_is_refused(tmp_path: pathlib.Path) -> None:
    message = "config.task.name: 'nre' is not a task. Did you mean 'ner'?"
    assert refusal({"task": {"name": "nre"}}) == message
    for call in (lambda: registry.definition("nre"), lambda: registry.default_config("nre")):
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value) == message
    assert refusal({"task": {}}) == f"config.task.name: is missing. It is one of {', '.join(registry.names())}."
    encoder = dataclasses.asdict(tiny.ENCODER)
    (tmp_path / "task.json").write_text(json.dumps({"version": 2, "task": "nre", "encoder": encoder}))
    with pytest.raises(UserError, match=r"task\.json: task 'nre' is not one of this jaxfm\. Did you mean 'ner'\?"):
        registry.read_spec(tmp_path, {})


def test_a_task_that_is_a_name_is_refused_with_advice() -> None:
    advice = "config.task: is a group of keys now. Set config.task.name, or start from default_config(NAME)."
    assert refusal(defaults("ner") | {"task": "ner"}) == advice
    assert refusal({}).startswith("config.task.name: is missing. It is one of ner, ")
    with pytest.raises(UserError) as caught:
        registry.check_key("task")  # --config.task=ner
    assert str(caught.value) == advice


@pytest.mark.parametrize(
    ("key", "now"),
    [
        ("mask.ratio", "is config.task.ratio now"),
        ("mask.places_at_once", "is config.task.logits_chunk now"),
        ("mask.generator_depth", "is config.task.generator_depth now"),
        ("loss.r_drop", "is config.task.loss.r_drop now"),
        ("loss", "is config.task.loss now"),
        ("classification.kind", "is config.task.kind now"),
        ("data.context", "is config.task.context now"),
        ("data.splitter", "is config.task.splitter now"),
        ("eval.rows", "is config.task.eval_rows now"),
        ("objective", "replaced-token detection is the task 'replaced_token' now"),
    ],
)
def test_keys_that_moved_say_where_they_are(key: str, now: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.check_key(key)  # --config.KEY=...
    assert str(caught.value).startswith(f"config.{key}: {now}")
    group, _, name = key.partition(".")
    values = defaults("masked_lm", **{group: {name: 1} if name else {"r_drop": 1.0} if key == "loss" else "rtd"})
    message = refusal(values)
    assert message.startswith(f"config.{group}") and now.removesuffix(" now") in message


@pytest.mark.parametrize(
    ("task", "key", "value", "nearest"),
    [
        ("ner", "kind", "multi", "'context', 'decoding', 'head', 'loss', 'name', 'overlap', 'overlapping',"),
        (
            "ner",
            "eval_rows",
            100,
            "'context', 'decoding', 'head', 'loss', 'name', 'overlap', 'overlapping',",
        ),
        ("classification", "context", "document", "'kind', 'l2_penalty', 'loss', 'name', 'normalize', 'perturb',"),
        ("masked_lm", "loss", {"label_smoothing": 0.1}, "Did you mean 'z_loss'?"),
        ("masked_lm", "generator_depth", 0.5, "'logits_chunk'"),
        ("replaced_token", "logits_chunk", 2, "'generator_depth'"),
        ("replaced_token", "mask_share", 0.8, "'generator_depth'"),
    ],
)
def test_keys_of_another_task_are_refused(task: str, key: str, value: Any, nearest: str) -> None:
    message = refusal(defaults(task, task={key: value}))
    assert message.startswith(f"config.task.{key}: there is no such key. ") and nearest in message
    registry.check_key(f"task.{key}")  # some task has it: which one is not known yet


def test_misspelt_keys_name_the_nearest() -> None:
    for key, nearest in (("task.contxt", "context"), ("task.loss.r_drp", "r_drop"), ("optim.b3", "b1")):
        with pytest.raises(UserError, match=rf"config\.{key}: there is no such key\. .*'{nearest}'"):
            registry.check_key(key)


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """A task's keys."""

    name: str = field("toy", "the task", choices=("toy",))
    size: int = field(3, "of the toy", at_least=1)


class ToyDefinition(NerDefinition):
    """Tagging under another name, with one key."""

    name = "toy"
    config_class = ToyConfig
    moved = {"toys": "task"}

    def reads(self, values: Any) -> bool:
        return values["task"] == "toy"


def test_a_task_is_registered_by_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_DEFINITIONS", dict(registry._DEFINITIONS))
    with pytest.raises(UserError, match="'toy' is not a task"):
        registry.default_config("toy")
    toy = ToyDefinition()
    registry.register(toy)
    assert registry.names() == (*TASKS, "toy") and registry.definition("toy") is toy
    values = registry.default_config("toy")
    values.update({"task": {"size": 5}})
    assert registry.from_config_dict(values).task == ToyConfig(size=5)
    registry.check_key("task.size")
    with pytest.raises(UserError, match=r"config\.toys\.size: is config\.task\.size now\."):
        registry.check_key("toys.size")
    assert refusal(defaults("toy", task={"size": 0})).startswith("config.task.size: is 0, but must be at least 1")
    again = ToyDefinition()
    registry.register(again)
    assert registry.definition("toy") is again and registry.names() == (*TASKS, "toy")


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_saved_task_is_read_as_it_was(tmp_path: pathlib.Path, name: str) -> None:
    config = tiny.CONFIGS[name](tmp_path)
    task, _ = registry.create(config, resolve(config.model))
    task.save(tmp_path / "run")
    definition, spec = registry.read_spec(tmp_path / "run", to_dict(config))
    assert definition.name == config.task.name and spec == task.objective.spec
    # Shapes alone need no data: the same model but for what only data says.
    assert type(registry.abstract_objective(config, spec.encoder)) is type(task.objective)


def test_values_of_a_wrong_kind_in_a_task_json_are_refused(tmp_path: pathlib.Path) -> None:
    task = registry.create(tiny.config(tmp_path), resolve(tiny.config(tmp_path).model))[0]
    task.save(tmp_path)
    path = tmp_path / "task.json"
    plain = json.loads(path.read_text())
    assert plain["version"] == SPEC_VERSION
    for change, words in (
        ({"window": "long"}, "window"),
        ({"windows": 3}, "windows: there is no such key. Did you mean 'window'?"),
        ({"encoder": {**plain["encoder"], "layers": 3}}, "encoder.layers: there is no such key"),
        ({"version": 4}, "has version 4, but this jaxfm reads versions up to 3"),
        ({"encoder": None}, "is not a task that this jaxfm knows"),
    ):
        path.write_text(json.dumps(plain | change))
        with pytest.raises(UserError) as caught:
            registry.read_spec(tmp_path, {})
        assert str(caught.value).startswith(str(path)) and words in str(caught.value)
    path.write_text(json.dumps({name: value for name, value in plain.items() if name != "labels"}))
    with pytest.raises(UserError, match=r"task\.json: has no 'labels', so it was changed"):
        registry.read_spec(tmp_path, {})


def test_shapes_of_any_encoder_need_no_data() -> None:
    text = dataclasses.replace(tiny.ENCODER, num_layers=3)
    images = image_encoder(family="vit", patches=PatchConfig(4, grid=(7, 7), class_token=True), num_layers=2)
    sound = dataclasses.replace(preset("ast_nano"), num_layers=2)
    for task in TASKS:
        if task in ("audio_classification", "speech_recognition", "masked_sound"):
            config = registry.from_config_dict(defaults(task, data={"row_length": 192}))
            objective = registry.abstract_objective(config, sound)
            assert objective.spec.encoder.patches.grid == (8, 16) and objective.spec.row_length == 192
            continue
        if task == "image_generation":
            config = registry.from_config_dict(defaults(task, data={"row_length": 64}, task={"image_size": 14}))
            objective = registry.abstract_objective(config, text)
            assert objective.spec.encoder.vocab_size == 256 + 1 + 2 + 1 and objective.spec.cells == 49
            assert objective.flops_per_row(config.adapt) > 0 and objective.logits_per_row() == 49 * 260
            continue
        reads_images = "image" in task or task == "detection"
        encoder = images if reads_images else text
        more = {"task": {"text_init": "scratch", "text_preset": "bert_tiny"}} if task == "image_text" else {}
        more = {"task": {"detection_tokens": 4}} if task == "detection" else more
        config = registry.from_config_dict(defaults(task, data={"row_length": 64}, **more))
        if reads_images:
            objective = registry.abstract_objective(config, encoder)
            assert objective.spec.encoder.patches.grid == (7, 7) and objective.spec.row_length == 64
            continue
        objective = registry.abstract_objective(config, encoder)
        assert objective.flops_per_row(config.adapt) > 0 and objective.logits_per_row() > 0
        if task == "recommendation":  # items in place of pieces
            found = objective.spec.encoder
            assert (found.num_layers, found.max_positions, found.sight) == (3, config.task.history + 1, CAUSAL)
            continue
        # That of next tokens is the same shape, of another sight.
        assert objective.spec.encoder == dataclasses.replace(encoder, sight=objective.spec.encoder.sight)
        assert (objective.spec.encoder.sight == CAUSAL) == (task == "causal_lm") and objective.spec.row_length == 64


def test_all_keys_are_those_of_every_task() -> None:
    keys = registry.all_keys()
    for task in TASKS:
        own = [key.name for key in describe(registry.from_config_dict(registry.default_config(task)))]
        assert set(own) <= set(keys)
    assert keys["train.steps"].name == "train.steps" and {"task.context", "task.ratio", "task.kind"} <= set(keys)
