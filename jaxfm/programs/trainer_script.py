"""Reads scripts that use transformers' Trainer, and files of its arguments. A script is parsed and never run."""

import ast
import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from jaxfm.errors import UserError

ARGUMENTS_CLASS = "TrainingArguments"  # and whatever ends so: Seq2SeqTrainingArguments
_FIRST_ARGUMENT = "output_dir"
_FILES = (".json", ".yaml", ".yml")
_SINGLE, _MULTI, _REGRESSION = "classification:files", "classification:multi", "classification:regression"
_HEADS = {
    "ForTokenClassification": "ner:files",
    "ForSequenceClassification": _SINGLE,
    "ForQuestionAnswering": "qa:files",
    "ForMaskedLM": "mlm:continue",
    "ForCausalLM": "clm:continue",
}
# Arguments of Trainer that need a word; the others are what every script has.
_OF_TRAINER = (
    *(
        "data_collator",
        "compute_metrics",
        "preprocess_logits_for_metrics",
        "compute_loss_func",
        "model_init",
        "callbacks",
    ),
    *("optimizers", "optimizer_cls_and_kwargs"),
)
# Linear maps that peft and jaxfm call by the same name; peft's "dense" is several of jaxfm's.
_LORA_TARGETS = ("query", "key", "value")
_LORA_WITHOUT_KEY = ("lora_dropout", "bias", "use_rslora", "use_dora", "modules_to_save", "layers_to_transform")
_FILE_BUILDERS = ("csv", "json", "parquet", "text", "arrow", "webdataset")


@dataclasses.dataclass(frozen=True)
class Unread:
    """An argument whose value only the running script knows: what is written, and where."""

    text: str
    line: int


@dataclasses.dataclass(frozen=True)
class Found:
    """What a script or file says.

    Attributes:
      where: "train.py:12", of its TrainingArguments.
      arguments: of TrainingArguments, literal ones, as they are named there.
      lines: line of each argument; empty for a file of arguments.
      unread: arguments that are no literals.
      keys: jaxfm's keys that other calls give -> value and a remark.
      others: arguments of Trainer and other calls that have no key -> line.
      config: name of jaxfm's config that suits the model's class; empty where none does.
    """

    where: str
    arguments: Mapping[str, Any]
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unread: Mapping[str, Unread] = dataclasses.field(default_factory=dict)
    keys: Mapping[str, tuple[Any, str]] = dataclasses.field(default_factory=dict)
    others: Mapping[str, int] = dataclasses.field(default_factory=dict)
    config: str = ""


@dataclasses.dataclass
class _Call:
    """A call of a script: the last part of its name, its line, literal arguments and the others."""

    name: str
    owner: str
    line: int
    literal: dict[str, Any]
    lines: dict[str, int]
    unread: dict[str, Unread]


def read(path: pathlib.Path, line: int | None = None) -> Found:
    """Returns what a Python script, or a JSON or YAML file of TrainingArguments, says.

    Args:
      path: the file; its ending says which.
      line: of the call of TrainingArguments to read, where a script has several.

    Raises:
      UserError: no such file, another ending, what is no Python, JSON or YAML (with its line), no TrainingArguments or
        several.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    if path.suffix == ".py":
        return _read_script(path, line)
    if path.suffix in _FILES:
        return Found(str(path), _read_values(path))
    more = " Write its code to a file first: jupyter nbconvert --to script FILE." if path.suffix == ".ipynb" else ""
    raise UserError(f"{path}: must be a script (.py) or a file of arguments ({', '.join(_FILES)}).{more}")


class _Loader(yaml.SafeLoader):
    """Plain values without aliases: a few lines of those stand for more values than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Returns the next value. Raises YAMLError for an alias (*NAME)."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="an alias (*NAME), which is not read here", problem_mark=mark)
        return super().compose_node(parent, index)


def _read_values(path: pathlib.Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 ({error.reason}).") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: is not JSON: {error.msg}.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; values inside values without end
        raise UserError(f"{path}: cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark is not None else ""
        raise UserError(f"{path}{where}: is not YAML: {getattr(error, 'problem', error)}.") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f'{path}: must be an object of arguments: {{"learning_rate": 2e-5, ...}}.')
    return values


def _read_script(path: pathlib.Path, line: int | None) -> Found:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno or 1}: is not Python: {error.msg}.") from error
    except (ValueError, MemoryError, RecursionError) as error:  # the last two: brackets inside brackets without end
        raise UserError(f"{path}: is not Python: {str(error) or 'it is nested too deeply'}.") from error
    constants = _constants(tree)
    calls = [_call(node, constants) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    chosen = _chosen([call for call in calls if call.name.endswith(ARGUMENTS_CLASS)], path, line)
    keys, others, config = _others(calls)
    return Found(f"{path}:{chosen.line}", chosen.literal, chosen.lines, chosen.unread, keys, others, config)


def _chosen(calls: list[_Call], path: pathlib.Path, line: int | None) -> _Call:
    """Returns the one call of TrainingArguments, or the one at that line."""
    calls = sorted(calls, key=lambda call: call.line)
    at = [call for call in calls if call.line == line]
    if line is not None and at:
        return at[0]
    lines = ", ".join(str(call.line) for call in calls)
    if not calls:
        raise UserError(
            f"{path}: does not call {ARGUMENTS_CLASS}. Where its arguments come from the command line or a file, give "
            'a JSON or YAML file of them: {"learning_rate": 2e-5, ...}.'
        )
    if line is not None:
        raise UserError(f"{path}: line {line} does not call {ARGUMENTS_CLASS}; these do: {lines}.")
    if len(calls) > 1:
        raise UserError(f"{path}: calls {ARGUMENTS_CLASS} in lines {lines}. Name one: --line={calls[0].line}.")
    return calls[0]


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Returns the literal value of each name that the whole script binds once, at its top level."""
    bound = collections.Counter(_bound_names(tree))
    found = {}
    for node in tree.body:
        target, value = (
            (node.targets[0], node.value)
            if isinstance(node, ast.Assign) and len(node.targets) == 1
            else ((node.target, node.value) if isinstance(node, ast.AnnAssign) else (None, None))
        )
        if isinstance(target, ast.Name) and value is not None and bound[target.id] == 1:
            try:
                found[target.id] = ast.literal_eval(value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
    return found


def _bound_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Global | ast.Nonlocal):
            yield from node.names


def _call(node: ast.Call, constants: Mapping[str, Any]) -> _Call:
    parts = ast.unparse(node.func).split(".") if isinstance(node.func, ast.Name | ast.Attribute) else [""]
    call = _Call(parts[-1], parts[-2] if len(parts) > 1 else "", node.lineno, {}, {}, {})

    def add(name: str, value: ast.expr) -> None:
        call.lines[name] = value.lineno
        try:
            call.literal[name] = constants[value.id] if isinstance(value, ast.Name) else ast.literal_eval(value)
        except (KeyError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            call.unread[name] = Unread(ast.unparse(value), value.lineno)

    for number, value in enumerate(node.args):
        if number == 0 and call.name.endswith(ARGUMENTS_CLASS):
            add(_FIRST_ARGUMENT, value)
        else:
            add(str(number), value)
    for keyword in node.keywords:
        if keyword.arg is not None:
            add(keyword.arg, keyword.value)
            continue
        several = constants.get(keyword.value.id) if isinstance(keyword.value, ast.Name) else None
        if isinstance(several, dict) and all(isinstance(name, str) for name in several):
            call.literal.update(several)
            call.lines.update(dict.fromkeys(several, keyword.value.lineno))
        else:
            call.unread[f"**{ast.unparse(keyword.value)}"] = Unread(ast.unparse(keyword.value), keyword.value.lineno)
    return call


def _others(calls: list[_Call]) -> tuple[dict[str, tuple[Any, str]], dict[str, int], str]:
    """Returns keys of other calls than TrainingArguments, what has no key, and the config's name."""
    keys: dict[str, tuple[Any, str]] = {}
    others: dict[str, int] = {}
    config = ""
    for call in sorted(calls, key=lambda call: call.line):
        said = f"line {call.line}: {f'{call.owner}.' if call.owner else ''}{call.name}"
        if call.name == "EarlyStoppingCallback":
            patience = call.literal.get("early_stopping_patience", call.literal.get("0", 1))
            keys["eval.patience"] = (patience, said)
            if call.literal.get("early_stopping_threshold", call.literal.get("1")):
                others["EarlyStoppingCallback(early_stopping_threshold)"] = call.line
        elif call.name == "DataCollatorForLanguageModeling" and "mlm_probability" in call.literal:
            keys["task.ratio"] = (call.literal["mlm_probability"], said)
        elif call.name == "LoraConfig":
            keys |= {key: (value, said) for key, value in _lora(call).items()}
            others |= {f"LoraConfig({name})": call.lines[name] for name in call.lines if name in _LORA_WITHOUT_KEY}
        elif call.name == "from_pretrained":
            name = call.literal.get("pretrained_model_name_or_path", call.literal.get("0"))
            found = _config_of(call)
            config = found or config
            if found and isinstance(name, str):
                keys["model.init"] = (_weights(name), said)
            elif found:
                others["AutoModelFor...from_pretrained(NAME)"] = call.line
        elif call.name == "load_dataset":
            names = [call.literal.get(position) for position in ("0", "1")]
            if isinstance(names[0], str) and names[0] not in _FILE_BUILDERS and not {"0", "1"} & set(call.unread):
                keys["data.source"] = (":".join(["hf", *map(str, filter(None, names))]), said)
        elif call.name.endswith("Trainer"):
            others |= {name: call.lines[name] for name in call.lines if name in _OF_TRAINER}
    if not config.startswith("mlm"):
        keys.pop("task.ratio", None)
    return keys, others, config


def _lora(call: _Call) -> dict[str, Any]:
    """Returns the keys of a LoraConfig of peft, whose defaults are rank 8 and alpha 8."""
    keys: dict[str, Any] = {}
    if "r" not in call.unread:
        keys["adapt.lora.rank"] = call.literal.get("r", 8)
    if "lora_alpha" not in call.unread:
        keys["adapt.lora.alpha"] = float(call.literal.get("lora_alpha", 8))
    targets = call.literal.get("target_modules")
    if targets == "all-linear":
        keys["adapt.lora.targets"] = ("all",)
    elif isinstance(targets, list | tuple) and set(targets) <= set(_LORA_TARGETS):
        keys["adapt.lora.targets"] = tuple(targets)
    return keys


def _config_of(call: _Call) -> str:
    """Returns the name of the config for the class whose from_pretrained is called; empty where there is none."""
    config = next((name for ending, name in _HEADS.items() if call.owner.endswith(ending)), "")
    if config != _SINGLE:
        return config
    problem = call.literal.get("problem_type")
    if problem == "multi_label_classification":
        return _MULTI
    return _REGRESSION if problem == "regression" or call.literal.get("num_labels") == 1 else _SINGLE


def _weights(name: str) -> str:
    return f"dir:{name}" if name.startswith(("/", "./", "../", "~")) or os.path.isdir(name) else f"hf:{name}"
