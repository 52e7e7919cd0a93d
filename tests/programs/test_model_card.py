"""The model card of an exported run: what the hub reads, what a person reads, and the command that repeats it."""

import ast
import json
import pathlib
import shlex

import pytest
import yaml

from jaxfm.config import FREE_ON_RESUME
from jaxfm.core.initial import Origin
from jaxfm.errors import UserError
from jaxfm.programs.export import export
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.model_card import command, model_card
from jaxfm.programs.train import train
from jaxfm.schema import flatten, is_under, to_dict
from jaxfm.training import workdir as workdirs
from jaxfm.training.saved_run import open_run
from tests import tiny

CONFIG = {"masked_lm": "mlm", "replaced_token": "mlm:rtd"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of NER."""
    folder = tmp_path_factory.mktemp("card")
    train(tiny.config(folder, train__steps=2), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return export(run, tmp_path_factory.mktemp("hf") / "out", license="apache-2.0", shard_size="40KB")


def parts(text: str) -> tuple[dict, str]:
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_front_matter_is_what_the_hub_reads(exported: pathlib.Path, run: pathlib.Path) -> None:
    from huggingface_hub import ModelCard

    values, _ = parts((exported / "README.md").read_text())
    assert values["license"] == "apache-2.0" and values["pipeline_tag"] == "token-classification"
    assert values["tags"] == ["jaxfm", "ner"] and values["library_name"] == "transformers"
    assert values["inference"] == {"parameters": {"aggregation_strategy": "first"}} and "base_model" not in values
    data = ModelCard.load(exported / "README.md").data
    report = json.loads((run / "report.json").read_text())
    found = {each.metric_type: each.metric_value for each in data.eval_results}
    assert found.keys() == report["directions"].keys()
    split = data.eval_results[0].dataset_split
    assert found["f1"] == pytest.approx(report["splits"][split]["f1"], abs=1e-6)
    assert data.eval_results[0].task_type == "token-classification" and split == "test"


def test_what_a_person_reads(exported: pathlib.Path, run: pathlib.Path) -> None:
    text = (exported / "README.md").read_text()
    report = json.loads((run / "report.json").read_text())
    config = workdirs.read_config(run)
    low, high = report["splits"]["test"]["intervals"]["metrics"]["f1"]
    row = next(line for line in text.split("On `test`")[1].splitlines() if line.startswith("| f1"))
    assert [float(cell) for cell in row.split("|")[2:5]] == pytest.approx(
        [report["splits"]["test"]["f1"], low, high], abs=1e-4
    )
    for words in (
        f"from `{config.model.init}`",
        f"`{config.data.source}` (sha256 of the training rows: `{report['data']['fingerprint']}`)",
        f"step {report['training']['chosen_step']}",
        "One run with one seed (0)",
        "python -m jaxfm.train ner",
        "95% intervals over",
        "DIRECTORY",
    ):
        assert words in text, words
    assert "Licence" not in text and "\n\n\n" not in text.partition("## Scores")[2]


def test_the_command_repeats_the_run(run: pathlib.Path) -> None:
    config = workdirs.read_config(run)
    words = shlex.split(command(config, "runs/again").replace("\\\n", " "))
    assert words[:4] == ["python", "-m", "jaxfm.train", "ner"] and words[4] == "--workdir=runs/again"
    keys = dict(word.removeprefix("--config.").split("=", 1) for word in words[5:])
    base = flatten(to_dict(resolve_config("ner")))
    overrides = {key: value if isinstance(base[key], str) else ast.literal_eval(value) for key, value in keys.items()}
    again = flatten(to_dict(resolve_config("ner", overrides)))
    wanted = flatten(to_dict(config))
    assert {key for key in wanted if wanted[key] != again[key] and not is_under(key, FREE_ON_RESUME)} == set()


def test_the_shards_open_in_transformers(exported: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForTokenClassification

    assert (exported / "model.safetensors.index.json").is_file() and not (exported / "model.safetensors").exists()
    model = AutoModelForTokenClassification.from_pretrained(exported)
    assert sum(p.numel() for p in model.parameters()) > 10_000 and torch.isfinite(model.classifier.weight).all()


def test_a_run_from_the_hub_that_has_not_finished(tmp_path: pathlib.Path) -> None:
    config = tiny.config(tmp_path)
    tiny.write_run(tmp_path / "run", config, best=1)
    workdirs.write_config(tmp_path / "run", config, Origin("hf:owner/name@main", "c" * 40, "", 96))
    saved = open_run(tmp_path / "run")
    text = model_card(saved, saved.predictor(), step=1)
    values, body = parts(text)
    assert values["base_model"] == "owner/name" and values["base_model_relation"] == "finetune"
    assert "model-index" not in values and "license" not in values
    assert f"from `hf:owner/name@main` (commit `{'c' * 40}`)" in body
    assert "None: the run had not finished" in body and "## Licence\n\nNone was given." in body
    adapter, body = parts(model_card(saved, saved.predictor(), step=1, adapter=True))
    assert adapter["library_name"] == "peft" and adapter["base_model_relation"] == "adapter"
    assert f'AutoPeftModelForTokenClassification.from_pretrained("DIRECTORY", num_labels={len(tiny.LABELS)})' in body


@pytest.mark.parametrize("task", ["classification", "pairs", "multi", "regression", "masked_lm", "replaced_token"])
def test_a_card_for_every_task(task: str, tmp_path: pathlib.Path) -> None:
    saved = open_run(tiny.write_runs(tmp_path, (task,))[task])
    values, body = parts(model_card(saved, saved.predictor(), step=1))
    assert values["tags"] == ["jaxfm", saved.config.task.name]
    code = body.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "DIRECTORY" in code and f"python -m jaxfm.train {CONFIG.get(task, 'classification')}" in body


@pytest.mark.parametrize("name", ["Apache 2.0", "MIT", "a_b", "-x"])
def test_what_is_no_licence(name: str, run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=f"--license={name}: must be the Hugging Face hub's name"):
        export(run, tmp_path / "out", license=name)
    with pytest.raises(UserError, match="--shard_size=5: must be a number with a unit"):
        export(run, tmp_path / "out", shard_size="5")
    assert not list(tmp_path.iterdir())
