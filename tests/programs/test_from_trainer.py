"""Scripts for transformers' Trainer as commands: what is read, what becomes of it, and the page of all arguments."""

import ast
import importlib.util
import pathlib
import shlex
import subprocess
import sys
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.programs import from_trainer
from jaxfm.programs.from_trainer import BASES, Converted, convert
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.trainer_arguments import ARGUMENTS, RENAMED
from jaxfm.programs.trainer_page import transformers_page
from jaxfm.schema import flatten, to_dict

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = """\
import os
from datasets import load_dataset
from transformers import AutoModelForTokenClassification, EarlyStoppingCallback, Trainer, TrainingArguments

NAME = "google-bert/bert-base-cased"
RATE: float = 3e-5
seed = 1
seed = 2
data = load_dataset("conll", "english")
model = AutoModelForTokenClassification.from_pretrained(NAME, num_labels=9)
args = TrainingArguments(
    "out",
    learning_rate=RATE,
    per_device_train_batch_size=8,
    gradient_accumulation_steps=2,
    num_train_epochs=4,
    warmup_ratio=0.06,
    evaluation_strategy="steps",
    eval_steps=50,
    load_best_model_at_end=True,
    metric_for_best_model="eval_overall_f1",
    fp16=True,
    group_by_length=True,
    neftune_noise_alpha=5,
    hub_token="hf_secret",
    weight_decay=float(os.environ["DECAY"]),
    seed=seed,
    report_to=["comet_ml"],
)
trainer = Trainer(model=model, args=args, compute_metrics=scores, callbacks=[EarlyStoppingCallback(3)])
os.remove("never run")
"""


def converted(folder: pathlib.Path, text: str, base: str = "", name: str = "train.py", **more: Any) -> Converted:
    (folder / name).write_text(text, encoding="utf-8")
    return convert(folder / name, base, **more)


def arguments(folder: pathlib.Path, text: str, base: str = "ner:files", **more: Any) -> Converted:
    """A script with these arguments alone."""
    return converted(folder, f"args = TrainingArguments({text})\n", base, **more)


def test_a_script_is_a_command(tmp_path: pathlib.Path) -> None:
    found = converted(tmp_path, SCRIPT, devices=2)
    assert found.base == "ner:files"
    assert found.keys == {
        "optim.learning_rate": 3e-5,
        "train.batch_size": "examples",
        "train.batch_examples": 32,
        "train.accumulate": 2,
        "train.epochs": 4.0,
        "optim.warmup_fraction": 0.06,
        "eval.every_steps": 50,
        "eval.select": "best",
        "eval.metric": "f1",
        "train.precision": "bf16",
        "log.tensorboard": False,
        "eval.patience": 3,
        "data.source": "hf:conll:english",
        "model.init": "hf:google-bert/bert-base-cased",
    }
    # The same keys, read back from the command line that is shown.
    words = shlex.split(found.command().replace("\\\n", " "))
    assert words[:5] == ["python", "-m", "jaxfm.train", "ner:files", "--workdir=out"]
    told = dict(word.removeprefix("--config.").split("=", 1) for word in words[5:])
    assert {key: str(value) for key, value in told.items()} == {
        key: from_trainer._text(each) for key, each in found.keys.items()
    }
    call = ast.parse(found.call(), mode="eval").body
    assert isinstance(call, ast.Call) and ast.literal_eval(call.keywords[1].value) == {
        key: value for key, value in found.keys.items() if key != "data.source"
    }


def test_what_a_script_does_not_say_is_said(tmp_path: pathlib.Path) -> None:
    found = converted(tmp_path, SCRIPT)
    path, notes = tmp_path / "train.py", "\n".join(found.notes())
    assert (
        f"{path}:26: weight_decay is not a literal value (float(os.environ['DECAY'])): set optim.weight_decay." in notes
    )
    assert f"{path}:27: seed is not a literal value (seed): set seed." in notes  # bound twice
    assert f"{path}:30: compute_metrics: the usual metrics are there, with intervals; your own: jaxfm.register" in notes
    rows = {row[0]: row for row in found.rows()}
    assert rows["neftune_noise_alpha"][3].startswith("no equivalent: ")
    assert rows["group_by_length"][3].startswith("not needed: rows are packed")
    assert rows["report_to"][3] == "no equivalent of comet_ml: read metrics.jsonl of the run directory"
    assert rows["hub_token"][1] == "..."  # no secret on a screen
    assert not found.defaults.keys() & {"optim.weight_decay", "optim.warmup_fraction", "train.precision", "eval.select"}


def test_defaults_of_the_trainer_that_are_not_jaxfms_are_listed(tmp_path: pathlib.Path) -> None:
    found = arguments(tmp_path, '"out", learning_rate=2e-5')
    assert found.keys == {"optim.learning_rate": 2e-5}
    assert found.defaults == {
        "train.epochs": 3.0,
        "train.batch_examples": 8,
        "train.min_steps": 0,
        "eval.patience": 0,
        "optim.weight_decay": 0.0,
        "optim.warmup_fraction": 0.0,
        "train.precision": "f32",
        "eval.select": "last",
    }
    masked = arguments(tmp_path, "", "mlm:continue").defaults
    assert masked["optim.b2"] == 0.999 and masked["optim.eps"] == 1e-8 and masked["train.batch_size"] == 8


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("max_steps=200, warmup_steps=50", {"train.steps": 200, "optim.warmup_fraction": 0.25}),
        ("warmup_steps=0.1", {"optim.warmup_fraction": 0.1}),
        ("warmup_steps=50", {}),  # of how many?
        ("max_steps=-1", {"train.steps": 0}),
        (
            "gradient_accumulation_steps=4",
            {"train.batch_size": "examples", "train.batch_examples": 32, "train.accumulate": 4},
        ),
        ("auto_find_batch_size=True, per_device_train_batch_size=64", {"train.batch_size": "auto"}),
        (
            'lr_scheduler_type="constant", warmup_steps=0.1',
            {"optim.schedule": "constant", "optim.warmup_fraction": 0.0},
        ),
        ('lr_scheduler_type="constant_with_warmup"', {"optim.schedule": "constant"}),
        ('lr_scheduler_type="inverse_sqrt"', {"optim.schedule": "inverse_sqrt"}),
        ('lr_scheduler_type="reduce_lr_on_plateau"', {}),
        (
            'lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 1e-5}, learning_rate=1e-4',
            {"optim.schedule": "cosine", "optim.final_fraction": pytest.approx(0.1), "optim.learning_rate": 1e-4},
        ),
        (
            'lr_scheduler_type="polynomial", lr_scheduler_kwargs={"power": 3}',
            {"optim.schedule": "polynomial", "optim.decay_power": 3.0},
        ),
        ('lr_scheduler_type="polynomial"', {"optim.schedule": "linear"}),
        (
            'lr_scheduler_type="warmup_stable_decay", max_steps=100, lr_scheduler_kwargs={"num_decay_steps": 20}',
            {"optim.schedule": "wsd", "train.steps": 100, "optim.decay_fraction": 0.2},
        ),
        ("bf16=True", {"train.precision": "bf16"}),
        ("bf16=False, fp16=False", {"train.precision": "f32"}),
        ("load_best_model_at_end=True", {"eval.select": "best", "eval.metric": "loss"}),
        ('eval_strategy="epoch", eval_steps=10', {"eval.every_steps": 0}),
        ('eval_strategy="steps", logging_steps=5', {"eval.every_steps": 5, "log.every_steps": 5}),
        ('eval_strategy="steps", eval_steps=0.1, max_steps=50', {"eval.every_steps": 5, "train.steps": 50}),
        ('save_strategy="steps", save_steps=7', {"checkpoint.every_steps": 7}),
        ('save_strategy="epoch", save_steps=7', {}),
        ("save_total_limit=3", {"checkpoint.keep_last": 3}),
        ("label_smoothing_factor=0.1, max_grad_norm=0.5", {"task.loss.label_smoothing": 0.1, "optim.clip_norm": 0.5}),
        ("gradient_checkpointing=True", {"model.remat": "full"}),
        ('fsdp="full_shard auto_wrap"', {"parallel.mesh.data": 1, "parallel.mesh.fsdp": -1}),
        ('report_to="tensorboard"', {"log.tensorboard": True}),
        ('report_to=["wandb", "tensorboard"]', {"log.tensorboard": True, "log.tracker": "wandb"}),
        ('optim="adafactor", adam_beta2=0.9', {"optim.name": "adafactor"}),
        ("adafactor=True", {"optim.name": "adafactor"}),
        ('optim="sgd"', {"optim.name": "sgd", "optim.sgd.momentum": 0.0}),
        (
            'optim="lion_32bit", adam_beta2=0.98',
            {"optim.name": "lion", "optim.lion.b1": 0.9, "optim.lion.b2": 0.98},
        ),
        ('optim="stable_adamw", adam_beta2=0.98', {"optim.name": "stable_adamw", "optim.b2": 0.98}),
        ('optim="adalomo"', {}),
        ("adam_beta1=0.8, adam_beta2=0.98, adam_epsilon=1e-6", {"optim.b1": 0.8, "optim.b2": 0.98, "optim.eps": 1e-6}),
        ("**settings", {}),
    ],
)
def test_what_becomes_of_an_argument(tmp_path: pathlib.Path, text: str, keys: dict[str, Any]) -> None:
    found = arguments(tmp_path, text)
    assert found.keys == keys
    # Every argument has its key, or a remark, or is named as one that could not be read.
    assert all(row[2] or row[3] for row in found.rows())
    assert len(found.rows()) == len(found.found.arguments) and (found.rows() or found.notes())


def test_masked_lm_and_classification(tmp_path: pathlib.Path) -> None:
    masked = converted(
        tmp_path,
        "model = BertForMaskedLM.from_pretrained('./weights')\n"
        "collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)\n"
        "args = Seq2SeqTrainingArguments(output_dir='o', per_device_train_batch_size=4, label_smoothing_factor=0.1)\n",
    )
    assert masked.base == "mlm:continue"
    assert masked.keys == {"train.batch_size": 4, "task.ratio": 0.3, "model.init": "dir:./weights"}
    causal = converted(
        tmp_path,
        "model = AutoModelForCausalLM.from_pretrained('./weights')\nTrainingArguments(output_dir='o', seed=3)\n",
    )
    assert causal.base == "clm:continue" and causal.keys == {"seed": 3, "model.init": "dir:./weights"}
    several = "AutoModelForSequenceClassification.from_pretrained(name, problem_type='multi_label_classification')\n"
    multi = converted(tmp_path, several + "TrainingArguments()\n")
    assert multi.base == "classification:multi"
    assert any("from_pretrained(NAME): model.init" in note for note in multi.notes())
    assert (
        converted(
            tmp_path,
            several.replace("problem_type='multi_label_classification'", "num_labels=1") + "TrainingArguments()",
        ).base
        == "classification:regression"
    )


def test_low_rank_updates_of_peft(tmp_path: pathlib.Path) -> None:
    lora = "LoraConfig(r=4, lora_alpha=32, target_modules=['query', 'value'], lora_dropout=0.1)\n"
    found = converted(tmp_path, f"{lora}TrainingArguments(seed=1)", "ner")
    assert found.keys == {
        "seed": 1,
        "adapt.lora.rank": 4,
        "adapt.lora.alpha": 32.0,
        "adapt.lora.targets": ("query", "value"),
    }
    assert any("LoraConfig(lora_dropout): no equivalent" in note for note in found.notes())
    resolved = resolve_config("ner", found.keys)
    assert resolved.adapt.lora.targets == ("query", "value")


def test_files_of_arguments(tmp_path: pathlib.Path) -> None:
    # YAML reads a number without a point as text.
    yaml = converted(tmp_path, "learning_rate: 1e-4\nbf16: true\n", "ner:files", "arguments.yaml")
    json = converted(tmp_path, '{"learning_rate": 1e-4, "bf16": true, "disable_tqdm": null}', "ner:files", "a.json")
    assert yaml.keys == json.keys == {"optim.learning_rate": 1e-4, "train.precision": "bf16"}
    assert [row[0] for row in json.rows()] == ["learning_rate", "bf16"]  # the third is the default


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "x = (\n", r"a\.py:1: is not Python: '\(' was never closed"),
        ("a.py", "x = 1\n", r"a\.py: does not call TrainingArguments\. Where its arguments come"),
        ("a.py", "TrainingArguments()\n\nTrainingArguments()\n", r"in lines 1, 3\. Name one: --line=1"),
        ("a.py", "TrainingArguments()\n", r"does not say what is trained .* --base=ner:files"),
        ("a.ipynb", "{}", r"must be a script \(\.py\) or a file of arguments .* jupyter nbconvert"),
        ("a.json", "{\n1}", r"a\.json:2: is not JSON"),
        ("a.json", "[1]", r"a\.json: must be an object of arguments"),
        ("a.yaml", "a: [1\n", r"a\.yaml:2: is not YAML"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: pathlib.Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        converted(tmp_path, text, "", name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learning_rat=1",
            r"py:1: learning_rat: is not an argument of TrainingArguments\. Did you mean 'learning_rate'",
        ),
        ("learning_rate='fast'", r"train\.py:1: learning_rate: is 'fast', but must be a number"),
        ("learning_rate=-1.0", r"train\.py:1: config\.optim\.learning_rate: is -1\.0, but must be above 0"),
        ("bf16='yes'", r"train\.py:1: bf16: is 'yes' \(str\), but must be true or false"),
    ],
)
def test_a_wrong_value_is_refused(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        arguments(tmp_path, text)


def test_a_file_that_is_absent_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"missing\.py: no such file"):
        convert(tmp_path / "missing.py")


def test_one_of_several_is_named_by_its_line(tmp_path: pathlib.Path) -> None:
    text = "TrainingArguments(seed=1)\nTrainingArguments(seed=2)\n"
    assert converted(tmp_path, text, "ner", line=2).keys == {"seed": 2}
    with pytest.raises(UserError, match=r"line 3 does not call TrainingArguments; these do: 1, 2"):
        converted(tmp_path, text, "ner", line=3)


def test_every_key_of_the_table_exists() -> None:
    known = {key for base in BASES for key in flatten(to_dict(resolve_config(base)))}
    for argument in ARGUMENTS.values():
        assert set(argument.keys) <= known, argument.name
        assert argument.keys or argument.remark, argument.name


def test_every_argument_of_transformers_is_in_the_table() -> None:
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.submodule_search_locations
    source = pathlib.Path(spec.submodule_search_locations[0], "training_args.py").read_text(encoding="utf-8")
    (definition,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"
    )
    found = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Call):
            found[node.target.id] = {each.arg: ast.unparse(each.value) for each in node.value.keywords}
    assert len(found) > 100
    assert set(found) == {name for name, argument in ARGUMENTS.items() if not argument.old}
    for name, values in found.items():
        if name != "optim":  # depends on torch's version
            default = "[]" if values.get("default_factory") == "list" else values["default"]
            assert ast.literal_eval(default) == ARGUMENTS[name].default, name
    assert set(RENAMED.values()) <= set(found)


def test_the_page_is_what_the_program_writes() -> None:
    page = (ROOT / "docs" / "from_transformers.md").read_text(encoding="utf-8")
    assert page == transformers_page(), (
        "run: python -m jaxfm.reference --page=transformers --output=docs/from_transformers.md"
    )


def test_the_program(tmp_path: pathlib.Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "jaxfm.from_trainer", str(tmp_path / "train.py"), "--devices=2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (
        "    --config.train.batch_examples=32 \\\n" in done.stdout and "jaxfm.train('ner:files', 'out'" in done.stdout
    )
    assert "hf_secret" not in done.stdout and (tmp_path / "train.py").read_text() == SCRIPT
