"""README.md of an exported model: what it is, how to use it, scores with intervals, data, cost, and how to repeat it.

The front matter has the keys that the Hugging Face hub reads (https://huggingface.co/docs/hub/model-cards).
"""

import math
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from jaxfm.config import FREE_ON_RESUME, Config
from jaxfm.core.model_card import CardPart
from jaxfm.core.task import Predictor
from jaxfm.data.records.source_keys import split_keys
from jaxfm.errors import UserError
from jaxfm.observe import studies
from jaxfm.observe.progress import format_seconds
from jaxfm.observe.report import JSON_FILE
from jaxfm.observe.summary import data_lines
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs import shipped
from jaxfm.programs.given_config import resolve_config
from jaxfm.schema import flatten, is_under, to_dict
from jaxfm.training import private_rows
from jaxfm.training import workdir as workdirs
from jaxfm.training.saved_run import SavedRun

CARD_FILE = "README.md"
_PEFT_CODE = """\
from peft import AutoPeftModel{suffix}
from transformers import AutoTokenizer

model = AutoPeftModel{suffix}.from_pretrained("DIRECTORY"{classes})
tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")"""


def check_license(name: str) -> None:
    """Raises UserError for what cannot be the hub's name of a licence."""
    if name and not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name):
        raise UserError(
            f"--license={name}: must be the Hugging Face hub's name of a licence, in small letters: apache-2.0, mit, "
            "cc-by-4.0, other (https://huggingface.co/docs/hub/repositories-licenses)."
        )


def model_card(run: SavedRun, predictor: Predictor, *, step: int, license: str = "", adapter: bool = False) -> str:
    """Returns the text of README.md.

    Args:
      run: the run that is exported. Where it has not finished, the card has no scores and says so.
      predictor: of the run.
      step: whose checkpoint is exported.
      license: the hub's name of a licence; "": the card says that none was given.
      adapter: whether low-rank updates are exported for the library peft, rather than a whole model.
    """
    card: Callable[[], CardPart] | None = getattr(predictor, "card", None)
    own = _plain_part(run) if card is None else card()
    report = workdirs.read_report(run.workdir) if (run.workdir / JSON_FILE).is_file() else None
    code = _peft_code(own, len(predictor.labels)) if adapter else own.code
    parts = [
        f"---\n{_front_matter(run, own, report, license, adapter=adapter)}---",
        f"# {own.title}",
        f"{own.summary} {_descent(run)}".strip(),
        f"## Use\n\n```python\n{code}\n```" if code else "",
        own.details,
        _scores(report),
        *_studies(run, step),
        _data(run, report),
        _training(run, report, step),
        _privacy(report) or _repeat(run),
        "" if license else "## Licence\n\nNone was given. That of the base model and of the data may bind its users.",
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def command(config: Config, workdir: str) -> str:
    """Returns the command of a run: the config that comes with jaxfm that is nearest, and the keys in which it differs.

    Returns "" for a task that is not jaxfm's own, whose config must be at hand.
    """
    values = flatten(to_dict(config))
    best: tuple[str, dict[str, Any]] | None = None
    for name, variants in shipped.listing().items():
        for given in (name, *(f"{name}:{variant}" for variant in variants)):
            base = flatten(to_dict(resolve_config(given)))
            if base["task.name"] != values["task.name"]:
                continue
            changed = {key: value for key, value in values.items() if base[key] != value and not _is_free(key)}
            if best is None or len(changed) < len(best[1]):
                best = given, changed
    if best is None:
        return ""
    words = [f"--workdir={workdir}", *(f"--config.{key}={_text(value)}" for key, value in best[1].items())]
    return " \\\n    ".join([f"python -m jaxfm.train {best[0]}", *map(shlex.quote, words)])


def _is_free(key: str) -> bool:
    return is_under(key, FREE_ON_RESUME)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _front_matter(
    run: SavedRun, own: CardPart, report: Mapping[str, Any] | None, license: str, *, adapter: bool
) -> str:
    base = _hub_base(run)
    found = {
        "library_name": "peft" if adapter else "transformers",
        "license": license,
        "pipeline_tag": own.pipeline_tag,
        "base_model": base,
        "base_model_relation": ("adapter" if adapter else "finetune") if base else "",
        "tags": ["jaxfm", run.config.task.name],
        **own.front_matter,
        "model-index": _index(run, own, report),
    }
    kept = {key: value for key, value in found.items() if value}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=1000)


def _index(run: SavedRun, own: CardPart, report: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the scores as the hub's table of results reads them: of the test split, else of the validation split."""
    if report is None or not own.pipeline_tag:
        return []
    split = "test" if "test" in report["splits"] else "valid"
    numbers = _numbers(report, split)
    if not numbers:
        return []
    source = str(report["data"]["source"])
    metrics = [{"type": name, "value": round(value, 6), "name": name} for name, value in numbers.items()]
    data = {"name": source, "type": re.sub(r"[^\w.-]+", "-", source).strip("-") or "data", "split": split}
    result = {"task": {"type": own.pipeline_tag}, "dataset": data, "metrics": metrics}
    return [{"name": run.workdir.name or "model", "results": [result]}]


def _hub_base(run: SavedRun) -> str:
    origin = workdirs.read_origin(run.workdir)
    init = origin.init if origin is not None else run.config.model.init
    return init.removeprefix("hf:").partition("@")[0] if init.startswith("hf:") else ""


def _descent(run: SavedRun) -> str:
    """Says where the first weights are from."""
    origin, config = workdirs.read_origin(run.workdir), run.config.model
    if origin is None and config.init == "scratch":
        return f"Trained from random weights (shape `{config.preset}`) with jaxfm."
    init = origin.init if origin is not None else config.init
    at = f" (commit `{origin.revision}`)" if origin is not None and origin.revision else ""
    through = f", by way of the run `{config.init}`" if config.init != init else ""
    return f"Trained with jaxfm from `{init}`{at}{through}."


def _numbers(report: Mapping[str, Any], split: str) -> dict[str, float]:
    """Returns metric -> value of what the task calls its metrics, in its order, those left out that are not numbers."""
    scores = report["splits"].get(split, {})
    names = report.get("directions") or scores
    found = {name: scores.get(name) for name in names}
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _scores(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return "## Scores\n\nNone: the run had not finished when this was written."
    parts = ["## Scores"]
    for split, scores in report["splits"].items():
        intervals = scores.get("intervals", {})
        groups = intervals.get("groups", {})
        limits = {**intervals.get("metrics", {}), **groups.get("metrics", {})}
        rows = [(name, value, *limits.get(name, (None, None))) for name, value in _numbers(report, split).items()]
        if not rows:
            continue
        how = ""
        if limits:
            how = f"; {intervals['confidence']:.0%} intervals over {intervals['count']:,} {intervals['unit']}"
            how += f" (of rankings over {groups['count']:,} {groups['unit']})" if groups else ""
        parts += [f"On `{split}`{how}:", to_markdown(Table("", ("metric", "value", "from", "to"), rows)).strip("\n")]
    result = report.get("result")
    chosen = f" The checkpoint was chosen by `{result['metric']}` on the validation split." if result else ""
    parts.append(f"One run with one seed ({report['seed']}); another seed gives other numbers.{chosen}")
    return "\n\n".join(parts)


def _studies(run: SavedRun, step: int) -> list[str]:
    """Returns a section for each study of this checkpoint: bias, leaks and what else programs found out about it."""
    found = studies.read_summaries(run.workdir, step)
    return ["\n\n".join([f"## {title}", "\n".join(f"- {line}" for line in lines)]) for title, lines in found.items()]


def _data(run: SavedRun, report: Mapping[str, Any] | None) -> str:
    source = run.config.data.source
    rows = f" (sha256 of the training rows: `{report['data']['fingerprint']}`)" if report is not None else ""
    by, leaks = split_keys(run.config.data), data_lines(report or {}, "warnings")
    rule = f" In these data {by.rule}{', but for the leaks below, which were allowed' if leaks else ''}." if by else ""
    return f"## Data\n\n`{source}`{rows}.{rule}" + "".join(f"\n\n**Warning:** {leak}." for leak in leaks)


def _training(run: SavedRun, report: Mapping[str, Any] | None, step: int) -> str:
    values = workdirs.read_made_with(run.workdir)
    config = run.config
    rows: list[tuple[str, str]] = [("checkpoint", f"step {step:,}")]
    if not config.privacy.clip_norm:  # the seed of private training takes its noise away
        rows.append(("seed", f"{config.seed}"))
    if report is not None:
        training, model = report["training"], report["model"]
        rows += [
            ("steps", f"{training['steps']:,} ({training['epochs']:.4g} epochs)"),
            ("time", format_seconds(training["seconds"])),
            ("parameters", f"{model['parameters']:,}, {model['trainable_parameters']:,} of them trained"),
        ]
    rows += [
        ("device", str(values.get("device", ""))),
        ("batch", f"{config.train.batch_size} rows of {config.data.row_length} tokens"),
        ("learning rate", _text(config.optim.learning_rate)),
        ("precision", config.train.precision),
    ]
    return "## Training\n\n" + to_markdown(Table("", ("what", "value"), [row for row in rows if row[1]]))


def _privacy(report: Mapping[str, Any] | None) -> str:
    """Returns what private training has spent; "" for other training."""
    if report is None or "privacy" not in report:
        return ""
    said = private_rows.sentence(report["privacy"])
    return f"## Privacy\n\n{said[0].upper()}{said[1:]}. Validation and test examples are not protected."


def _repeat(run: SavedRun) -> str:
    values = workdirs.read_made_with(run.workdir)
    pinned = workdirs.pinned(run.workdir, run.config.model)
    config = _with_model(run.config, pinned)
    line = command(config, "runs/again")
    made = ", ".join(f"{name} {version}" for name, version in values.get("versions", {}).items())
    commit = f"; commit `{values['git_commit']}` of jaxfm" if values.get("git_commit") else ""
    how = f"```sh\n{line}\n```" if line else "The run is of a task from outside jaxfm: its config.json has all keys."
    return f"## Repeat it\n\n{how}\n\nMade with {made}{commit}."


def _with_model(config: Config, model: Any) -> Config:
    return resolve_config(config, {"model.init": model.init, "model.tokenizer": model.tokenizer})


def _plain_part(run: SavedRun) -> CardPart:
    name = run.config.task.name
    return CardPart(f"A model of the task {name}", "", "", "")


def _peft_code(own: CardPart, classes: int) -> str:
    suffix = {"token-classification": "ForTokenClassification", "text-classification": "ForSequenceClassification"}
    if own.pipeline_tag not in suffix:
        return ""
    return _PEFT_CODE.format(suffix=suffix[own.pipeline_tag], classes=f", num_labels={classes}")
