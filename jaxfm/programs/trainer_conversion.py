"""From arguments of transformers' `TrainingArguments` to keys of jaxfm's config; `trainer_arguments` is the table."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any

from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.trackers import TRACKERS
from jaxfm.programs.trainer_arguments import ARGUMENTS, RENAMED

ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_hf", "adamw_apex_fused", "adamw_torch_npu_fused")
# Optimizers of the Trainer other than AdamW -> config.optim.name.
_OPTIMIZERS = {
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit"), "lion"),
    "sgd": "sgd",
    "adafactor": "adafactor",
    "stable_adamw": "stable_adamw",
    "schedule_free_adamw": "schedule_free_adamw",
}
_SCHEDULES = {
    **{name: name for name in ("linear", "cosine", "constant", "inverse_sqrt", "polynomial")},
    "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
    "cosine_with_min_lr": "cosine",
    "cosine_warmup_with_min_lr": "cosine",
}
_METRIC_PREFIXES = ("eval_", "overall_")
# Arguments whose Trainer's default gives another model than jaxfm's own default may.
MATTER = (
    *("num_train_epochs", "per_device_train_batch_size", "learning_rate", "weight_decay", "warmup_steps", "adam_beta2"),
    *("adam_epsilon", "max_grad_norm", "lr_scheduler_type", "bf16", "load_best_model_at_end"),
)


# What jaxfm's configs for few examples have, and the Trainer has not.
TRAINER_LACKS: Mapping[str, Any] = types.MappingProxyType({"train.min_steps": 0, "eval.patience": 0})


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an argument: the keys it sets, a remark, or both."""

    keys: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What conversions need to know beside an argument's value.

    Attributes:
      given: all arguments that are given, by today's names.
      devices: number of devices that the script ran on.
      masked: whether rows are filled with text, as masked LM does, and so are no examples.
    """

    given: Mapping[str, Any]
    devices: int
    masked: bool

    def __getitem__(self, name: str) -> Any:
        """Returns the value of an argument: as given, or the Trainer's default."""
        return self.given.get(name, ARGUMENTS[name].default)

    @property
    def steps(self) -> int:
        """Updates, 0 where only a number of epochs is known."""
        return max(int(self["max_steps"]), 0)

    def in_steps(self, name: str, key: str) -> Outcome:
        """Returns an interval: a number of updates, or below 1 a share of all."""
        value = self[name]
        if value >= 1:
            return Outcome({key: int(value)})
        if not self.steps:
            return Outcome({}, f"a share of all updates, whose number is not known: set {key} yourself")
        return Outcome({key: max(round(value * self.steps), 1)}, f"{value} of {self.steps:,} updates")


Conversion = Callable[[Any, Setting], Outcome]
_OFF = Outcome({}, "off in jaxfm too")


def convert(given: Mapping[str, Any], *, devices: int, masked: bool) -> dict[str, Outcome]:
    """Returns what becomes of each argument, in the given order.

    Args:
      given: literal arguments of TrainingArguments, under their names of today (`todays_name`).
      devices: see `Setting`.
      masked: see `Setting`.

    Raises:
      UserError: a value of a wrong type.
    """
    setting = Setting({name: _number(name, value) for name, value in given.items()}, devices, masked)
    found = {}
    for name, value in setting.given.items():
        argument = ARGUMENTS[name]
        if argument.fate == "same":
            found[name] = Outcome({argument.keys[0]: value}, "")
        elif argument.fate == "converted":
            found[name] = _CONVERSIONS[name](value, setting)
        else:
            nothing = "no equivalent" if argument.fate == "absent" else "not needed"
            found[name] = Outcome({}, f"{nothing}: {argument.remark}")
    return found


def overrides(found: Mapping[str, Outcome]) -> dict[str, Any]:
    """Returns the keys that all arguments set together."""
    return {key: value for outcome in found.values() for key, value in outcome.keys.items()}


def todays_name(name: str) -> str:
    """Returns an argument's name of today. Raises UserError, with the nearest one, for one that there never was."""
    name = RENAMED.get(name, name)
    if name not in ARGUMENTS:
        raise UserError(f"{name}: is not an argument of TrainingArguments. {did_you_mean(name, ARGUMENTS)}")
    return name


def _number(name: str, value: Any) -> Any:
    """Returns a value in its argument's type: YAML reads 1e-5, without a point, as text."""
    default = ARGUMENTS[name].default
    kinds = (int, float) if isinstance(default, int | float) and not isinstance(default, bool) else ()
    if kinds and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise UserError(f"{name}: is {value!r}, but must be a number.") from None
    if kinds and (isinstance(value, bool) or not isinstance(value, kinds)):
        raise UserError(f"{name}: is {value!r} ({type(value).__name__}), but must be a number.")
    if kinds and not abs(value) < 2**63:  # NaN is not below it either
        raise UserError(f"{name}: is {value!r:.40}, which is no number that it can be.")
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    if kinds and isinstance(value, float) and isinstance(default, int) and value.is_integer():
        return int(value)
    if isinstance(default, bool) and not isinstance(value, bool):
        raise UserError(f"{name}: is {value!r} ({type(value).__name__}), but must be true or false.")
    return value


def _batch(value: int, setting: Setting) -> Outcome:
    if setting["auto_find_batch_size"]:
        return Outcome({}, "not used: auto_find_batch_size is True")
    accumulate = setting["gradient_accumulation_steps"]
    examples = int(value * accumulate * setting.devices)
    said = f"{int(value)} x {setting.devices} devices" if setting.devices > 1 else f"{int(value)} on one device"
    remark = f"{said}{f' x {int(accumulate)} accumulated' if accumulate > 1 else ''}"
    if setting.masked:
        return Outcome({"train.batch_size": examples}, remark)
    return Outcome({"train.batch_size": "examples", "train.batch_examples": examples}, remark)


def _accumulate(value: int, setting: Setting) -> Outcome:
    if "per_device_train_batch_size" in setting.given:
        return Outcome({"train.accumulate": int(value)})
    batch = _batch(setting["per_device_train_batch_size"], setting)
    return Outcome({**batch.keys, "train.accumulate": int(value)}, f"batches of {batch.remark}: the Trainer's default")


def _schedule(value: str, setting: Setting) -> Outcome:
    schedule = _SCHEDULES.get(value) if isinstance(value, str) else None
    more = setting["lr_scheduler_kwargs"] or {}
    if schedule is None:
        return Outcome({}, f"no equivalent of {value!r} among those of optim.schedule")
    if value == "constant":
        return Outcome({"optim.schedule": schedule, "optim.warmup_fraction": 0.0}, "without warm-up, as in the Trainer")
    if value == "polynomial":
        power = float(more.get("power", 1.0))
        return Outcome(
            {"optim.schedule": "linear"} if power == 1 else {"optim.schedule": value, "optim.decay_power": power}
        )
    return Outcome({"optim.schedule": schedule})


def _schedule_arguments(value: Any, setting: Setting) -> Outcome:
    if not value:
        return Outcome()
    if not isinstance(value, Mapping):
        return Outcome({}, "no equivalent of what is no dict")
    keys: dict[str, Any] = {}
    left = []
    for name, number in value.items():
        if name == "min_lr_rate":
            keys["optim.final_fraction"] = float(number)
        elif name in ("min_lr", "lr_end"):
            keys["optim.final_fraction"] = float(number) / setting["learning_rate"]
        elif name == "num_decay_steps" and setting.steps:
            keys["optim.decay_fraction"] = float(number) / setting.steps
        elif name != "power":  # `_schedule` looks at it
            left.append(name)
    nothing = "" if keys else "as lr_scheduler_type says"
    return Outcome(keys, f"no equivalent of {', '.join(left)}" if left else nothing)


def _warmup(value: float, setting: Setting) -> Outcome:
    key = "optim.warmup_fraction"
    if setting["lr_scheduler_type"] == "constant":
        return Outcome({}, 'not needed: the schedule "constant" has no warm-up')
    if not value and setting["warmup_ratio"]:
        return Outcome({}, "warmup_ratio is given")
    if value < 1:
        return Outcome({key: float(value)})
    if not setting.steps:
        return Outcome({}, f"set {key} to {value:g} divided by the number of updates, which a run says at its start")
    return Outcome({key: min(value / setting.steps, 1.0)}, f"{value:g} of {setting.steps:,} updates")


def _warmup_ratio(value: float, setting: Setting) -> Outcome:
    if setting["warmup_steps"] >= 1:
        return Outcome({}, "warmup_steps is given, and counts")
    if setting["lr_scheduler_type"] == "constant":
        return _warmup(value, setting)
    return Outcome({"optim.warmup_fraction": value})


def _precision(value: bool, setting: Setting) -> Outcome:
    if value:
        return Outcome({"train.precision": "bf16"})
    return Outcome({}, "fp16 is True") if setting["fp16"] else Outcome({"train.precision": "f32"})


def _half(value: bool, setting: Setting) -> Outcome:
    if value:
        return Outcome({"train.precision": "bf16"}, "bf16 in place of f16: no loss is scaled")
    return Outcome({}, "bf16 is True") if setting["bf16"] else Outcome({"train.precision": "f32"})


def _smoothing(value: float, setting: Setting) -> Outcome:
    if setting.masked:
        return Outcome({}, "no equivalent: masked LM is trained without" if value else "")
    return Outcome({"task.loss.label_smoothing": value})


def _strategy(value: str, setting: Setting) -> Outcome:
    if value == "epoch":
        return Outcome({"eval.every_steps": 0}, "once an epoch")
    if value != "steps":
        return Outcome({}, "the validation split is scored once an epoch all the same")
    if setting["eval_steps"] is not None:
        return Outcome({}, "as eval_steps says")
    return dataclasses.replace(setting.in_steps("logging_steps", "eval.every_steps"), remark="as logging_steps says")


def _eval_steps(value: float | None, setting: Setting) -> Outcome:
    if value is None:
        return Outcome()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"eval_steps: is {value!r}, but must be a number.")
    if setting["eval_strategy"] != "steps":
        return Outcome({}, f"not used: eval_strategy is {setting['eval_strategy']!r}")
    return setting.in_steps("eval_steps", "eval.every_steps")


def _best(value: bool, setting: Setting) -> Outcome:
    if not value:
        return Outcome({"eval.select": "last"})
    if setting["metric_for_best_model"]:
        return Outcome({"eval.select": "best"})
    return Outcome({"eval.select": "best", "eval.metric": "loss"}, "by the loss, as in the Trainer")


def _metric(value: str | None, setting: Setting) -> Outcome:
    del setting
    if not value:
        return Outcome()
    name = str(value)
    for prefix in _METRIC_PREFIXES:
        name = name.removeprefix(prefix)
    return Outcome({"eval.metric": name})


def _save_steps(value: float, setting: Setting) -> Outcome:
    if setting["save_strategy"] != "steps":
        return Outcome({}, f"not used: save_strategy is {setting['save_strategy']!r}")
    return setting.in_steps("save_steps", "checkpoint.every_steps")


def _save_strategy(value: str, setting: Setting) -> Outcome:
    if value != "steps":
        return Outcome({}, "a checkpoint is saved at each evaluation; the best one is kept")
    return Outcome({}, "as save_steps says") if "save_steps" in setting.given else _save_steps(500, setting)


def _save_limit(value: int | None, setting: Setting) -> Outcome:
    if not value:
        return Outcome({}, "" if value is None else "no equivalent of no checkpoint at all")
    best = bool(setting["load_best_model_at_end"])
    return Outcome({"checkpoint.keep_last": max(int(value) - best, 1)}, "beside the best one" if best else "")


def _logging_strategy(value: str, setting: Setting) -> Outcome:
    del setting
    return Outcome({}, "as logging_steps says" if value == "steps" else "no equivalent: set log.every_steps")


def _report_to(value: Any, setting: Setting) -> Outcome:
    del setting
    names = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f'report_to: is {value!r:.100}, but must be a name or a list of names (YAML: quote "no").')
    trackers = [name for name in names if name in TRACKERS]
    others = [name for name in names if name not in ("tensorboard", "none", "all", *trackers[:1])]
    remark = f"no equivalent of {', '.join(others)}: read metrics.jsonl of the run directory" if others else ""
    tracker = {"log.tracker": trackers[0]} if trackers else {}
    return Outcome({"log.tensorboard": "tensorboard" in names or "all" in names, **tracker}, remark)


def _sharded(value: Any, setting: Setting) -> Outcome:
    del setting
    return (
        Outcome({"parallel.mesh.data": 1, "parallel.mesh.fsdp": -1}, "parameters cut over all devices")
        if value
        else _OFF
    )


def _optimizer(value: Any, setting: Setting) -> Outcome:
    if value in ADAMW:
        return Outcome({}, "not needed: AdamW is the optimizer")
    name = _OPTIMIZERS.get(value) if isinstance(value, str) else None
    if name is None:
        return Outcome({}, f"no equivalent of {value!r} among those of optim.name")
    keys: dict[str, Any] = {"optim.name": name}
    if name == "sgd":
        keys["optim.sgd.momentum"] = 0.0  # the Trainer's default; another one stands in optim_args
    elif name == "lion":
        keys |= {"optim.lion.b1": setting["adam_beta1"], "optim.lion.b2": setting["adam_beta2"]}
    return Outcome(keys)


def _adam(key: str) -> Conversion:
    """Returns what converts a setting of Adam: one that is not read by the chosen optimizer is none."""

    def outcome(value: float, setting: Setting) -> Outcome:
        chosen = "adafactor" if setting["adafactor"] else setting["optim"]
        name = _OPTIMIZERS.get(chosen, "adamw") if isinstance(chosen, str) else "adamw"
        if name == "lion" and key != "eps":
            return Outcome({f"optim.lion.{key}": value})
        if name in ("sgd", "adafactor", "lion"):
            return Outcome({}, f"not read by {name}")
        return Outcome({f"optim.{key}": value})

    return outcome


def _remat(value: Any, setting: Setting) -> Outcome:
    del setting
    return Outcome({"model.remat": "full"}) if value else _OFF


_CONVERSIONS: Mapping[str, Conversion] = {
    "output_dir": lambda value, setting: Outcome({}, f"--workdir={value}" if value else ""),
    "max_steps": lambda value, setting: Outcome({"train.steps": setting.steps}),
    "per_device_train_batch_size": _batch,
    "gradient_accumulation_steps": _accumulate,
    "per_device_eval_batch_size": lambda value, setting: Outcome({"eval.batch_size": int(value * setting.devices)}),
    "auto_find_batch_size": lambda value, setting: Outcome({"train.batch_size": "auto"}) if value else _OFF,
    "lr_scheduler_type": _schedule,
    "lr_scheduler_kwargs": _schedule_arguments,
    "warmup_steps": _warmup,
    "warmup_ratio": _warmup_ratio,
    "adam_beta1": _adam("b1"),
    "adam_beta2": _adam("b2"),
    "adam_epsilon": _adam("eps"),
    "optim": _optimizer,
    "adafactor": lambda value, setting: _optimizer("adafactor", setting) if value else _OFF,
    "label_smoothing_factor": _smoothing,
    "bf16": _precision,
    "fp16": _half,
    "activation_checkpointing": _remat,
    "gradient_checkpointing": _remat,
    "eval_strategy": _strategy,
    "eval_steps": _eval_steps,
    "load_best_model_at_end": _best,
    "metric_for_best_model": _metric,
    "save_strategy": _save_strategy,
    "save_steps": _save_steps,
    "save_total_limit": _save_limit,
    "logging_steps": lambda value, setting: setting.in_steps("logging_steps", "log.every_steps"),
    "logging_strategy": _logging_strategy,
    "report_to": _report_to,
    "fsdp": _sharded,
    "deepspeed": _sharded,
}
assert set(_CONVERSIONS) == {name for name, argument in ARGUMENTS.items() if argument.fate == "converted"}
