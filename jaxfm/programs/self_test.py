"""A tiny model from made data to a prediction, in seconds: does this installation train, save, load and predict?"""

import contextlib
import dataclasses
import io
import pathlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator

import jax

from jaxfm.config import Config
from jaxfm.observe.writers import METRICS_FILE, read_metrics
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.schema import nested
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.workdir import CHECKPOINTS_DIR

STEPS = 30
# The loss of the last updates as a share of the first ones', at most: a model that learns goes far below.
_LOSS_SHARE = 0.5
_NAMES = {
    "PER": ("ada", "boole", "curry", "dedekind", "emmy", "frege", "gauss", "hilbert"),
    "LOC": ("arles", "bergen", "cadiz", "delft", "essen", "ferrara", "ghent", "hull"),
}
_FILLERS = ("met", "in", "saw", "the", "old", "town", "near", "left", "and", "went", "to", ".")
_SENTENCE = "emmy left ghent ."


@dataclasses.dataclass(frozen=True)
class Check:
    """What was tried.

    Attributes:
      name: of what was tried, in a word or two.
      passed: whether it worked.
      text: what came out, in a sentence.
      seconds: that it took.
    """

    name: str
    passed: bool
    text: str
    seconds: float


def self_test() -> Iterator[Check]:
    """Trains a tiny named-entity model in a temporary folder and uses it; ends at the first thing that fails."""
    with tempfile.TemporaryDirectory(prefix="jaxfm-doctor-") as name:
        folder = pathlib.Path(name)
        workdir = folder / "run"
        trials: dict[str, Callable[[], str]] = {
            "train": lambda: _train(folder, workdir),
            "save": lambda: _saved(workdir),
            "load, predict": lambda: _predict(workdir),
        }
        for title, trial in trials.items():
            check = attempt(title, trial)
            yield check
            if not check.passed:
                return


def attempt(name: str, trial: Callable[[], str]) -> Check:
    """Returns what came of a trial, which returns a sentence or raises; nothing that it prints is shown."""
    start = time.monotonic()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            passed, text = True, trial()
    except Exception as error:  # whatever is wrong with an installation is to be reported, not to end the report
        passed, text = False, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Check(name, passed, text, time.monotonic() - start)


def _train(folder: pathlib.Path, workdir: pathlib.Path) -> str:
    train(_config(folder), workdir)
    losses = [line["loss"] for line in read_metrics(workdir / METRICS_FILE) if line["split"] == "train"]
    said = f"the loss went from {losses[0]:.2f} to {losses[-1]:.2f} in {STEPS} updates"
    if not losses[-1] < _LOSS_SHARE * losses[0]:
        raise RuntimeError(f"{said}, but should have fallen below {_LOSS_SHARE:.0%} of the first one")
    return said


def _saved(workdir: pathlib.Path) -> str:
    size = sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file())
    steps = sorted(path.name for path in (workdir / CHECKPOINTS_DIR).iterdir() if path.name.isdigit())
    if not steps:
        raise RuntimeError("there is no checkpoint")
    return f"the run directory has {size / 2**20:.0f} MiB, checkpoint {steps[-1]}"


def _predict(workdir: pathlib.Path) -> str:
    entities = Model(workdir)(_SENTENCE)["entities"]
    found = [(each["type"], each["text"]) for each in entities]
    if found != [("PER", "emmy"), ("LOC", "ghent")]:
        raise RuntimeError(f"of {_SENTENCE!r} it found {found}, not the person emmy and the place ghent")
    return f"{_SENTENCE!r} has the person emmy and the place ghent"


def _config(folder: pathlib.Path) -> Config:
    """Writes data and a tokenizer; returns the config of a run on them, whatever the number of devices."""
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_FILLERS, *_NAMES["PER"], *_NAMES["LOC"])
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    rows = 8 * jax.device_count()
    draw = random.Random(0)
    for split, count in {"train": 16 * rows, "valid": 2 * rows}.items():
        text = "".join(_sentence(draw) for _ in range(count))
        (folder / f"{split}.conll").write_text(text, encoding="utf-8")
    values = {
        "task.name": "ner",
        "task.overlap": 8,
        "model.preset": "bert_tiny",
        "model.tokenizer": f"dir:{tokenizer}",
        "model.scan_layers": True,  # compiles faster
        "data.source": f"conll:{folder}",
        "data.row_length": 32,
        "optim.learning_rate": 2e-3,
        "train.steps": STEPS,
        "train.batch_size": rows,
        "eval.batch_size": rows,
        "eval.every_steps": STEPS,
        "log.every_steps": 3,
        "log.tensorboard": False,
    }
    return from_config_dict(nested(values))


def _sentence(draw: random.Random) -> str:
    """Returns a sentence of names and other words, in lines of a word and its tag."""
    lines = []
    for _ in range(draw.randint(2, 4)):
        kind = draw.choice(tuple(_NAMES))
        lines += [f"{draw.choice(_NAMES[kind])} B-{kind}", f"{draw.choice(_FILLERS)} O"]
    return "\n".join(lines) + "\n\n"
