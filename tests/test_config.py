import ast
import dataclasses
import math
import pathlib
import typing
from collections.abc import Iterator
from typing import Any

import ml_collections
import pytest

from jaxfm import schema
from jaxfm.config import AUTO, BY_EXAMPLES, FREE_ON_RESUME, Config
from jaxfm.errors import UserError
from jaxfm.schema import differences, to_dict
from jaxfm.tasks import registry
from jaxfm.tasks.registry import default_config, from_config_dict

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Every option there is. Whoever adds, renames or removes one edits this list on purpose, and the documentation with it.
OPTIONS = """
seed
model.init model.preset model.num_layers model.hidden_size model.num_heads model.head_size model.ffn_size
model.keep_layers model.grow_head model.tokenizer model.dropout model.attention_dropout model.sight model.attention
model.scan_layers model.remat
data.source data.words_column data.tags_column data.document_column data.row_length data.packed data.window
data.text_column data.pair_column data.image_column data.audio_column data.label_column data.holdout data.cache
data.group_column data.time_column data.leaks
optim.name optim.learning_rate optim.schedule optim.warmup_fraction optim.decay_fraction optim.decay_power
optim.final_fraction optim.weight_decay optim.no_decay optim.b1 optim.b2 optim.eps
optim.sgd.momentum optim.sgd.nesterov optim.lion.b1 optim.lion.b2 optim.adafactor.decay_power optim.adafactor.clip_rms
optim.muon.momentum optim.muon.nesterov optim.muon.iterations optim.muon.rms
optim.clip_norm optim.mup optim.spike_factor optim.spike_window
adapt.train adapt.freeze adapt.freeze_layers adapt.unfreeze_every adapt.layer_decay adapt.head_rate
adapt.lora.rank adapt.lora.alpha adapt.lora.targets adapt.adapter_size adapt.prefix_length adapt.ema adapt.average_best
grow.layers grow.at grow.patience grow.min_gain grow.new_layers
adapt.quantise.bits adapt.quantise.inputs adapt.quantise.keep
train.epochs train.steps train.min_steps train.batch_size train.batch_examples train.first_batch_size
train.batch_warmup_steps train.accumulate train.precision train.stop_after_skips train.verify_every_steps
train.seeds train.learning_rates train.weight_decays
supernet.depths supernet.heads supernet.ffn_sizes supernet.random supernet.distillation supernet.temperature
supernet.importance_batches
exits.every exits.weights exits.pooling exits.joint exits.distillation exits.temperature exits.max_loss exits.certainty
distil.teacher distil.hard distil.soft distil.temperature distil.hidden distil.attention distil.relations
distil.relation_heads distil.relation_layer distil.layers distil.cache
consolidate.importance consolidate.weight consolidate.orthogonal_to consolidate.orthogonal_weight
augment.word_dropout augment.dropped_to augment.substitute augment.masked_lm augment.temperature augment.mixup
augment.mixup_layers augment.start augment.stop
privacy.clip_norm privacy.epsilon privacy.delta privacy.noise
eval.every_steps eval.batch_size eval.metric eval.first eval.select eval.patience
checkpoint.every_steps checkpoint.keep_last checkpoint.mirror checkpoint.keep_optimizer
parallel.mesh.data parallel.mesh.fsdp parallel.mesh.tensor parallel.mesh.sequence
log.every_steps log.tensorboard log.tracker log.project log.stall_factor log.stall_seconds profile.steps
""".split()
LOSS = "task.loss.function task.loss.label_smoothing task.loss.class_weights task.loss.focal_gamma task.loss.r_drop"
PERTURB = "task.perturb.kinds task.perturb.copies"
IMAGES = (
    "task.name task.image_size task.patch_size task.channels task.resize task.broken_images task.augment.border "
    "task.augment.crop task.augment.cutmix task.augment.erase task.augment.flip task.augment.magnitude "
    "task.augment.mixup task.augment.operations task.augment.pad_crop"
)
SOUNDS = (
    "task.name task.sample_rate task.seconds task.mels task.lengths task.broken_files task.augment.shift "
    "task.augment.noise task.augment.time_masks task.augment.time_width task.augment.frequency_masks "
    "task.augment.frequency_width"
)
MASKS = (
    "task.name task.unit task.ratio task.final_ratio task.later_ratios task.later_at task.evaluate task.eval_rows "
    "task.z_loss"
)
TASK_OPTIONS = {
    "ner": (
        "task.name task.context task.overlap task.splitter task.overlapping task.decoding task.head task.word_pooling "
        f"{LOSS} {PERTURB}"
    ).split(),
    "nested_ner": (
        f"task.name task.max_width task.overlaps task.threshold task.span_size task.overlap task.splitter {LOSS}"
    ).split(),
    "zero_shot_ner": (
        "task.name task.more_sources task.label_texts task.negative_labels task.label_length task.max_width "
        "task.overlaps task.threshold task.span_size task.overlap task.splitter"
    ).split(),
    "classification": (
        "task.name task.kind task.pooling task.head task.normalize task.fit task.shots task.l2_penalty "
        "task.contrastive.sampling task.contrastive.iterations task.contrastive.most_pairs task.prompt.pattern "
        f"task.prompt.words task.threshold {LOSS} {PERTURB}"
    ).split(),
    "qa": "task.name task.overlap task.max_question task.max_answer".split(),
    "embedding": (
        "task.name task.kind task.pooling task.normalize task.dimension task.query_prompt task.document_prompt "
        "task.negative_columns task.label_rule task.negatives task.matryoshka task.context_turns "
        "task.context_separator task.responder task.loss.function task.loss.temperature "
        "task.loss.learned_temperature task.loss.symmetric task.loss.margin task.loss.score_range"
    ).split(),
    "late_interaction": (
        "task.name task.kind task.dimension task.query_prompt task.document_prompt task.query_length "
        "task.document_length task.query_expansion task.skipped_tokens "
        "task.negative_columns task.label_rule task.context_turns task.context_separator "
        "task.responder task.negatives task.loss.function task.loss.temperature task.loss.learned_temperature "
        "task.loss.symmetric task.loss.margin task.loss.score_range"
    ).split(),
    "masked_lm": f"{MASKS} task.mask_share task.random_share task.logits_chunk task.causal_until".split(),
    "replaced_token": f"{MASKS} task.generator_depth task.discriminator_weight".split(),
    "causal_lm": "task.name task.eval_rows task.z_loss task.logits_chunk".split(),
    "image_classification": f"{IMAGES} task.kind task.pooling task.threshold {LOSS}".split(),
    "audio_classification": (f"{SOUNDS} task.kind task.pooling task.threshold {LOSS}").split(),
    "speech_recognition": (
        f"{SOUNDS} task.lower task.spell_digits task.unfit task.decoding.method task.decoding.beams "
        "task.decoding.candidates task.join.clips task.join.fewest task.join.examples task.join.column task.join.gap"
    ).split(),
    "masked_sound": (
        f"{SOUNDS} task.fresh task.clusters.count task.clusters.features task.clusters.layer task.spans.starts "
        "task.spans.length"
    ).split(),
    "masked_images": (
        f"{IMAGES} task.method task.ratio task.normalize_target task.decoder_size task.decoder_layers"
    ).split(),
    "image_generation": (
        "task.name task.image_size task.patch_size task.channels task.resize task.broken_images task.codebook "
        "task.codes task.codebook_patches task.class_dropout task.judge task.valid_made task.test_made "
        "task.unmasking.steps task.unmasking.temperature task.unmasking.order_noise task.unmasking.guidance "
        "task.unmasking.samples task.unmasking.seed"
    ).split(),
    "detection": (
        "task.name task.image_size task.patch_size task.channels task.resize task.broken_images task.detection_tokens "
        "task.threshold task.bad_boxes task.small_data task.drawn_images task.augment.flip task.augment.crop "
        "task.augment.pad_crop task.augment.erase task.loss.no_object task.loss.boxes task.loss.overlap "
        "task.loss.classes task.loss.patches task.loss.class_cost"
    ).split(),
    "image_text": (
        f"{IMAGES} task.loss task.text_init task.text_preset task.text_length task.image_pooling task.text_pooling "
        "task.dimension task.label_prompt"
    ).split(),
    "seq2seq": (
        "task.name task.way task.max_target task.controls task.control_dropout task.context_turns task.responder "
        "task.valid_written task.test_written "
        "task.logits_chunk task.unmasking.steps task.unmasking.temperature task.unmasking.seed task.decoding.method "
        "task.decoding.max_tokens task.decoding.min_tokens task.decoding.beams task.decoding.length_penalty "
        "task.decoding.stop task.decoding.temperature task.decoding.top_p task.decoding.no_repeat_ngram "
        "task.decoding.seed"
    ).split(),
    "recommendation": (
        "task.name task.method task.history task.user_column task.item_column task.time_column task.split "
        "task.held_out task.least_per_user task.least_per_item task.repeats task.mask_ratio task.last_share "
        "task.loss.kind task.loss.negatives task.loss.calibration task.logits_chunk task.eval_users task.top "
        "task.separator"
    ).split(),
    "relations": f"task.name task.markers task.negative task.unrelated {LOSS}".split(),
}


def leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Yields (dotted key, field) of every option."""
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            yield from leaves(typing.cast(type, field.type), f"{prefix}{field.name}.")
        elif f"{prefix}{field.name}" != "task":  # its class depends on the task
            yield f"{prefix}{field.name}", field


# Task -> key -> field; the keys of the trainer are looked at with one task, those of each task with that task.
TASK_FIELDS = {name: dict(leaves(registry.definition(name).config_class, "task.")) for name in registry.names()}
FIELDS = {("ner", key): field for key, field in leaves(Config)} | {
    (name, key): field for name, fields in TASK_FIELDS.items() for key, field in fields.items()
}
KEYS = [pytest.param(*each, id=".".join(each)) for each in FIELDS]


def values_of(task: str, key: str, value: Any) -> dict[str, Any]:
    """One key beside the task's name, as nested dicts: what from_config_dict takes."""
    return schema.nested({"task.name": task, key: value})


def built(task: str, key: str, value: Any) -> Any:
    """The value of `key` in the config that sets it to `value` and leaves all else alone."""
    result: Any = from_config_dict(values_of(task, key, value))
    for name in key.split("."):
        result = getattr(result, name)
    return result


def other_value(field: dataclasses.Field[Any]) -> Any:
    """A valid value that is not the default."""
    default, rules = field.default, field.metadata
    if "choices" in rules:
        return next(choice for choice in rules["choices"] if choice != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        return default + "x"
    if isinstance(default, tuple):
        return (*default, {str: "x", int: 7, float: 0.25}[typing.get_args(field.type)[0]])
    if default is None:
        return True if bool in typing.get_args(field.type) else 0.25
    if isinstance(default, float):
        return (default + 0.25) / 2  # every share and rate may be that
    return rules["at_least"] if rules.get("at_least", default) != default else default + 1


def test_the_list_of_options() -> None:
    assert sorted(dict(leaves(Config))) == sorted(OPTIONS)
    assert {name: sorted(fields) for name, fields in TASK_FIELDS.items()} == {
        name: sorted(keys) for name, keys in TASK_OPTIONS.items()
    }


def test_every_option_says_what_it_is() -> None:
    for key, field in FIELDS.items():
        assert len(field.metadata["doc"].split()) >= 2, key
        known = {"doc", "choices", "at_least", "at_most", "above", "below", "words", "open", "adjustable"}
        assert set(field.metadata) <= known, key
        assert field.metadata.get("open", field.default) == field.default, f"{key}: is left open unless it is given"


@pytest.mark.parametrize("task", TASK_OPTIONS)
def test_defaults_go_round(task: str) -> None:
    config, definition = from_config_dict(default_config(task)), registry.definition(task)
    assert config == from_config_dict({"task": {"name": task}}) == from_config_dict(to_dict(config))
    neutral = dataclasses.replace(Config(), task=definition.config_class())
    changed = differences(to_dict(neutral), to_dict(config))
    assert [line.partition(":")[0] for line in changed] == sorted(definition.defaults)


def test_fine_tuning_has_defaults_of_its_own_which_values_replace() -> None:
    config = from_config_dict({"task": {"name": "ner"}, "train": {"min_steps": 3}, "optim": {"b1": 0.8}})
    assert (config.train.min_steps, config.optim.b1, config.train.batch_size) == (3, 0.8, BY_EXAMPLES)
    assert config.eval.patience == registry.definition("ner").defaults["eval.patience"] > 0
    assert from_config_dict({"task": {"name": "masked_lm"}}).train.min_steps == 0
    with pytest.raises(UserError, match="config.train: is 3, but must be a group of keys"):
        from_config_dict({"task": {"name": "ner"}, "train": 3})


@pytest.mark.parametrize(("task", "key"), [case for case in KEYS if case.values[1] != "task.name"])
def test_every_option_goes_round_and_back(task: str, key: str) -> None:
    value, default = other_value(FIELDS[task, key]), from_config_dict(default_config(task))
    assert value != FIELDS[task, key].default
    if registry.definition(task).defaults.get(key) == value:  # of new runs; the field's is that of older ones
        value = FIELDS[task, key].default
    values = default_config(task)
    *groups, name = key.split(".")
    node = values
    for group in groups:
        node = node[group]
    node[name] = value
    config = from_config_dict(values)
    assert config != default and built(task, key, value) == value
    assert config == from_config_dict(values_of(task, key, value)) == from_config_dict(to_dict(config))
    assert [line.partition(":")[0] for line in differences(to_dict(default), to_dict(config))] == [key]


def test_the_default_config_is_locked() -> None:
    config = default_config("ner")
    with pytest.raises(AttributeError):
        config.optim.learning_rat = 1.0
    with pytest.raises(AttributeError):
        config.new = 1
    with pytest.raises(TypeError):
        config.train.accumulate = "many"
    config.model.dropout = 0.2  # a placeholder: unset, but of type float
    assert from_config_dict(config).model.dropout == 0.2
    with pytest.raises(TypeError):
        config.model.dropout = "much"


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.steps = 1  # type: ignore[misc]


def test_to_dict_is_json() -> None:
    values = to_dict(Config())
    assert values["optim"]["no_decay"] == ["*/bias", "*norm/scale"] and values["model"]["dropout"] is None
    assert all(isinstance(value, str | int | dict) or value is None for value in values.values())


# (key, value, the whole message)
REFUSED = [
    ("optin", {}, "config.optin: there is no such key. Did you mean 'optim'?"),
    ("optim.learning_rat", 1.0, "config.optim.learning_rat: there is no such key. Did you mean 'learning_rate'?"),
    (
        "log.zzz",
        1,
        "config.log.zzz: there is no such key. Valid choices: 'every_steps', 'project', 'stall_factor', "
        "'stall_seconds', 'tensorboard', 'tracker'.",
    ),
    ("optim", 3, "config.optim: is 3, but must be a group of keys."),
    ("optim", None, "config.optim: is None, but must be a group of keys."),
    ("seed", True, "config.seed: is True (bool), but must be int."),
    ("seed", 1.0, "config.seed: is 1.0 (float), but must be int."),
    ("seed", None, "config.seed: is None (NoneType), but must be int."),
    ("optim.learning_rate", True, "config.optim.learning_rate: is True (bool), but must be float."),
    ("optim.learning_rate", "1e-3", "config.optim.learning_rate: is '1e-3' (str), but must be float."),
    ("model.dropout", "0.1", "config.model.dropout: is '0.1' (str), but must be float."),
    ("model.scan_layers", 1, "config.model.scan_layers: is 1 (int), but must be bool."),
    (
        "task",
        "ner",
        "config.task: is a group of keys now. Set config.task.name, or start from default_config(NAME).",
    ),
    ("task.name", "nerr", "config.task.name: 'nerr' is not a task. Did you mean 'ner'?"),
    ("mask.ratio", 0.2, "config.mask.ratio: is config.task.ratio now."),
    ("mask.places_at_once", 8, "config.mask.places_at_once: is config.task.logits_chunk now."),
    ("loss.r_drop", 1.0, "config.loss.r_drop: is config.task.loss.r_drop now."),
    ("data.context", "document", "config.data.context: is config.task.context now."),
    ("eval.rows", 5, "config.eval.rows: is config.task.eval_rows now."),
    ("optim.no_decay", "*/bias", "config.optim.no_decay: is '*/bias', but must be a tuple of strings."),
    ("optim.no_decay", [1], "config.optim.no_decay: is [1], but must be a tuple of strings."),
    ("optim.schedule", "liner", "config.optim.schedule: is 'liner'. Did you mean 'linear'?"),
    ("eval.select", "first", "config.eval.select: is 'first'. Valid choices: 'best', 'last'."),
    (
        "train.batch_size",
        "many",
        "config.train.batch_size: is 'many' (str), but must be int or 'auto' or 'examples'.",
    ),
    ("train.batch_size", 1.5, "config.train.batch_size: is 1.5 (float), but must be int or 'auto' or 'examples'."),
    ("train.epochs", math.nan, "config.train.epochs: is nan, but must be a finite number."),
    ("optim.clip_norm", math.inf, "config.optim.clip_norm: is inf, but must be a finite number."),
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=[f"{key}={value!r}" for key, value, _ in REFUSED])
def test_what_is_refused_and_how(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_config_dict(values_of("ner", key, value) if key != "task" else {key: value})
    assert str(caught.value) == message


RULES = [
    (*key, rule, bound) for key, field in FIELDS.items() for rule, bound in field.metadata.items() if rule != "doc"
]


@pytest.mark.parametrize(
    ("task", "key", "rule", "bound"),
    [case for case in RULES if case[2] not in ("choices", "words", "open", "adjustable")],
    ids=lambda value: str(value),
)
def test_bounds(task: str, key: str, rule: str, bound: float) -> None:
    kind = int if FIELDS[task, key].type is int else float
    step = 1 if kind is int else 1e-6
    while rule == "at_least" and bound - step in FIELDS[task, key].metadata.get("words", {}).values():
        step += 1  # a word stands for it
    outside, inside = {
        "at_least": (bound - step, bound),
        "at_most": (bound + step, bound),
        "above": (bound, bound + step),
        "below": (bound, bound - step),
    }[rule]
    assert built(task, key, kind(inside)) == inside
    with pytest.raises(UserError) as caught:
        built(task, key, kind(outside))
    rule_said = f"must be {rule.replace('_', ' ')} {bound}"
    assert str(caught.value).startswith(f"config.{key}: is {kind(outside)!r}, but {rule_said}")
    assert FIELDS[task, key].metadata["doc"] in str(caught.value)


def test_every_kind_of_rule_is_used() -> None:
    assert {rule for *_, rule, _ in RULES} == {
        *("choices", "at_least", "at_most", "above", "below", "words", "open", "adjustable"),
    }


def test_what_may_change_in_a_run_is_a_number_and_says_when() -> None:
    for key, field in FIELDS.items():
        when = field.metadata.get("adjustable", "always")
        assert when in ("always", "above 0") or when.startswith("unless "), key
        if "adjustable" in field.metadata:
            assert field.type in (float, float | None), key


def test_every_choice_is_taken() -> None:
    for task, key, rule, choices in RULES:
        if rule == "choices":
            assert FIELDS[task, key].default in choices
            assert [built(task, key, choice) for choice in choices] == list(choices)


def test_every_word_stands_for_its_value() -> None:
    for task, key, rule, words in RULES:
        if rule == "words":
            assert {word: built(task, key, word) for word in words} == words
    config = default_config("ner")
    config.train.batch_size = "auto"
    assert from_config_dict(config).train.batch_size == AUTO
    config.train.batch_size = 8
    assert from_config_dict(config).train.batch_size == 8
    config.data.row_length = "auto"
    assert from_config_dict(config).data.row_length == AUTO


def test_an_int_is_taken_for_a_float_and_becomes_one() -> None:
    value = built("ner", "train.epochs", 3)
    assert value == 3.0 and type(value) is float
    assert type(built("ner", "model.dropout", 0)) is float


def test_none_is_for_optional_keys_alone() -> None:
    optional = {key for key, field in FIELDS.items() if type(None) in typing.get_args(field.type)}
    assert ("ner", "model.dropout") in optional and ("ner", "optim.learning_rate") not in optional
    assert all(FIELDS[key].default is None and built(*key, None) is None for key in optional)


def test_lists_become_tuples() -> None:
    assert built("ner", "optim.no_decay", ["a", "b"]) == ("a", "b") and built("ner", "optim.no_decay", []) == ()


def test_differences() -> None:
    old = to_dict(from_config_dict(default_config("ner")))
    new = to_dict(
        from_config_dict(
            {"task": {"name": "ner"}, "seed": 3, "optim": {"learning_rate": 1e-3}, "log": {"every_steps": 7}}
        )
    )
    assert differences(old, old) == []
    assert differences(old, new) == [
        "log.every_steps: 20 -> 7",
        "optim.learning_rate: 5e-05 -> 0.001",
        "seed: 0 -> 3",
    ]
    assert differences(old, new, ignore=FREE_ON_RESUME) == ["optim.learning_rate: 5e-05 -> 0.001", "seed: 0 -> 3"]
    del old["seed"]  # a run of a version that had no such key
    assert differences(old, to_dict(from_config_dict(default_config("ner")))) == ["seed: '(not set)' -> 0"]
    assert differences(to_dict(from_config_dict(default_config("ner"))), old) == ["seed: 0 -> '(not set)'"]


def test_the_groups_that_are_free_exist() -> None:
    assert all(any(f"{key}.".startswith(f"{free}.") for key in OPTIONS) for free in FREE_ON_RESUME)


def groups(cls: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields (name of the dataclass, dotted key) of every group of options, the whole config first, under ""."""
    yield cls.__name__, prefix
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            yield from groups(typing.cast(type, field.type), f"{prefix}{field.name}.")


def reads(source: str) -> set[str]:
    """Returns the options that a source reads as attributes: `x.optim.b1`, or `x.b1` where x is an OptimConfig."""
    by_class, found = dict(groups(Config)), set()
    for name in registry.names():
        by_class |= dict(groups(registry.definition(name).config_class, "task."))
    by_class["AxisSizes"] = by_class["MeshConfig"]  # the protocol by which the lower room knows that group
    by_class["Decoding"] = by_class["TargetDecoding"]  # the class that the models' room knows
    for scope in ast.walk(ast.parse(source)):
        if isinstance(scope, ast.ClassDef) and scope.name.endswith("Config"):  # its own properties
            own = [node for node in ast.walk(scope) if isinstance(node, ast.Attribute)]
            found |= {f"task.{node.attr}" for node in own if ast.unparse(node.value) == "self"}
        if not isinstance(scope, ast.FunctionDef):
            continue
        annotated = {arg.arg: ast.unparse(arg.annotation) for arg in ast.walk(scope.args) if arg_annotated(arg)}
        for node in ast.walk(scope):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                first, *inner = owner.split(".")
                if inner and first != "self":
                    found |= {".".join([*inner[start:], node.attr]) for start in range(len(inner))}
                if owner in ("task", "loss"):  # names of `config.task` and its group in a function
                    found.add(f"{owner}.{node.attr}")
                if annotated.get(owner) in by_class:
                    found.add(f"{by_class[annotated[owner]]}{node.attr}")
    return found


def arg_annotated(node: ast.AST) -> typing.TypeGuard[ast.arg]:
    return isinstance(node, ast.arg) and node.annotation is not None


def test_every_option_is_read_somewhere() -> None:
    found: set[str] = set()
    for path in (ROOT / "jaxfm").rglob("*.py"):
        if path.name != "config.py":
            found |= reads(path.read_text(encoding="utf-8"))
    assert [key for key in OPTIONS if key not in found] == []
    # A task reads its keys as config.task.KEY, or by another name of that group.
    tails = {key.rpartition(".")[2] for key in found}
    assert [key for keys in TASK_OPTIONS.values() for key in keys if key.rpartition(".")[2] not in tails] == []


def test_the_search_for_reads_tells_groups_apart() -> None:
    source = "def f(config: Config, optim: OptimConfig):\n  config.train.steps; optim.b1; config.seed; optim.other.b2"
    assert reads(source) & set(OPTIONS) == {"train.steps", "optim.b1", "seed"}


def test_a_config_file_starts_from_the_defaults() -> None:
    values = default_config("ner")
    assert isinstance(values, ml_collections.ConfigDict) and values.is_locked
    assert default_config("ner") is not values
