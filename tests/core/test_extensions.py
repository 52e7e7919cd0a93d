"""What is registered from outside: names, collisions, what fails, and a whole run with a metric and a loss."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfm
from jaxfm.core import extensions
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs import plugins
from jaxfm.tasks import registry
from jaxfm.tasks.losses import ClassLoss, LossConfig
from tests import tiny
from tests.toy import image

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "docs" / "examples" / "my_metrics.py"
QUIET = Progress(0, quiet=True)


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is registered before a test, and nothing after it."""
    monkeypatch.setattr(extensions, "_metrics", {})
    monkeypatch.setattr(extensions, "_losses", {})


def test_the_guide_shows_the_plugin_that_is_tested_here() -> None:
    guide = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert f"```python\n{PLUGIN.read_text(encoding='utf-8')}```\n" in guide


def exact(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    return float(np.mean([one == other for one, other in zip(gold, predicted, strict=True)]))


def absent(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]


def test_a_metric_has_a_direction_and_may_be_of_one_task() -> None:
    jaxfm.register_metric("exact", exact)
    jaxfm.register_metric("errors", lambda gold, predicted: 1 - exact(gold, predicted), less_is_better=True, task="b")
    assert extensions.with_own("a", {"loss": False}) == {"loss": False, "exact": True}
    assert extensions.with_own("b", {"loss": False}) == {"loss": False, "exact": True, "errors": False}
    assert extensions.own_metrics("b", ["x", "y"], ["x", "z"]) == {"exact": 0.5, "errors": 0.5}


def test_a_name_is_taken_once_but_for_the_same_function() -> None:
    jaxfm.register_metric("exact", exact)
    jaxfm.register_metric("exact", exact)  # a cell of a notebook, run again
    with pytest.raises(
        UserError, match=r"^the metric 'exact' of test_extensions\.py has the name of one that test_ext"
    ):
        jaxfm.register_metric("exact", lambda gold, predicted: 0.0)
    jaxfm.register_metric("accuracy", exact)
    with pytest.raises(
        UserError, match=r"'accuracy' of test_extensions\.py has the name of one that classification has"
    ):
        extensions.with_own("classification", {"accuracy": True})
    with pytest.raises(UserError, match=r"^the loss 'Focal-2' of .*: a name is of lower-case letters"):
        jaxfm.register_loss("Focal-2", absent)


def test_a_task_does_not_take_the_name_of_another() -> None:
    with image.registered():
        registry.register(image.ToyImageDefinition())  # the same once more

        class Other(image.ToyImageDefinition):
            pass

        with pytest.raises(
            UserError, match=r"^the task 'toy_image' of test_extensions\.py has the name of one that image"
        ):
            jaxfm.register(Other())


def test_a_metric_that_fails_is_said_with_its_line() -> None:
    jaxfm.register_metric("broken", lambda gold, predicted: gold[0] / 0)
    with pytest.raises(
        UserError, match=r"^the metric 'broken' failed at test_extensions\.py:\d+: TypeError: unsupported"
    ):
        extensions.check_metrics("classification", ["x"])


def test_a_registered_cross_entropy_is_cross_entropy() -> None:
    jaxfm.register_loss("absent", absent)
    logits = jax.random.normal(jax.random.key(0), (4, 5, 3))
    labels = jnp.asarray(np.random.default_rng(0).integers(-1, 3, (4, 5)))
    assert (labels == -1).any() and (labels >= 0).any()
    counts = np.asarray([1, 2, 3])
    for weights in ("", "balanced"):
        own = ClassLoss.of(LossConfig(function="absent", class_weights=weights), "abc", counts)
        plain = ClassLoss.of(LossConfig(class_weights=weights), "abc", counts)

        def total(loss: ClassLoss, logits: jax.Array) -> jax.Array:
            return loss(logits, labels)[0].sum()

        for function in (total, jax.grad(total, argnums=1)):
            np.testing.assert_allclose(function(own, logits), function(plain, logits), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(own(logits, labels)[1], plain(logits, labels)[1])


@pytest.mark.parametrize(
    ("function", "more", "message"),
    [
        (lambda logits, labels: logits.sum(axis=-1).sum(), {}, r"gives .* but must give one number a target"),
        (lambda logits, labels: labels, {}, r"gives .*int32.* but must give one number a target"),
        (lambda logits: logits, {}, r"cannot be traced for logits f32 \[2, 3, 3\] .*TypeError"),
        (absent, {"label_smoothing": 0.1}, r"^config\.task\.loss\.label_smoothing: is 0\.1, but changes cross-entropy"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused_before_a_run(
    function: Any, more: dict[str, float], message: str
) -> None:
    jaxfm.register_loss("own", function)
    with pytest.raises(UserError, match=message):
        ClassLoss.of(LossConfig(function="own", **more), "abc", None)
    with pytest.raises(
        UserError, match=r"^config\.task\.loss\.function: 'won' is not a registered loss\. Did you mean"
    ):
        ClassLoss.of(LossConfig(function="won"), "abc", None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("extensions")


@pytest.fixture(scope="module")
def run(base: pathlib.Path) -> Iterator[tuple[jaxfm.Config, pathlib.Path]]:
    """A run with the metric and the loss of the plugin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extensions, "_metrics", {})
        patch.setattr(extensions, "_losses", {})
        plugins.load(str(PLUGIN))
        config = tiny.classification_config(
            base, train__steps=4, eval__every_steps=2, eval__metric="cost", task__loss__function="mae"
        )
        report = jaxfm.train(config, base / "run")
        lines = map(json.loads, (base / "run" / "metrics.jsonl").read_text().splitlines())
        costs = {line["step"]: line["cost"] for line in lines if line["split"] == "valid"}
        assert set(costs) == {2, 4} and report["splits"]["valid"]["cost"] == min(costs.values())
        assert "cost" not in report["splits"]["valid"]["intervals"]["metrics"]
        assert "Registered metrics" in (base / "run" / "report.md").read_text()
    yield config, base / "run"


@pytest.mark.slow
def test_a_run_remembers_what_it_used(run: tuple[jaxfm.Config, pathlib.Path]) -> None:
    config, workdir = run
    used = json.loads((workdir / "config.json").read_text())["extensions"]
    assert [(each["kind"], each["name"], each["file"]) for each in used] == [
        ("loss", "mae", "my_metrics.py"),
        ("metric", "cost", "my_metrics.py"),
    ]
    assert jaxfm.predict(workdir, "ada met boole")["label"] in ("LOC", "PER")  # which needs neither
    progress = Said(0, quiet=True)
    evaluation = jaxfm.evaluate(workdir, progress=progress)
    assert "cost" not in evaluation.metrics
    assert any(
        text.startswith("NOTE: not scored, as not registered now: cost. Give --plugin=my") for text in progress.said
    )
    plugins.load(str(PLUGIN))
    assert jaxfm.evaluate(workdir, progress=QUIET).metrics["cost"] >= 0


class Said(Progress):
    """Keeps what is said."""

    @functools.cached_property
    def said(self) -> list[str]:
        return []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_a_run_goes_on_with_what_it_used_alone(run: tuple[jaxfm.Config, pathlib.Path], base: pathlib.Path) -> None:
    config, workdir = run
    shutil.copytree(workdir, base / "cut")
    (base / "cut" / "report.json").unlink()
    with pytest.raises(
        UserError, match=r"uses the loss 'mae' of my_metrics\.py, which is not registered\. Give --plugin=my"
    ):
        jaxfm.train(config, base / "cut")
    changed = base / "my_metrics.py"
    changed.write_text(PLUGIN.read_text().replace("5.0", "6.0"))
    plugins.load(str(changed))
    with pytest.raises(
        UserError, match=r"'mae' of my_metrics\.py as it was \(sha256 \w+\), and my_metrics\.py is another"
    ):
        jaxfm.train(config, base / "cut")


def test_a_task_that_is_not_registered_is_named_with_its_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "version": 2,
                "config": {"task": {"name": "toy"}},
                "extensions": [{"kind": "task", "name": "toy", "module": "m", "file": "toy.py", "sha256": ""}],
            }
        )
    )
    with pytest.raises(
        UserError, match=r"is of the task 'toy' of toy\.py, which is not registered\. Give --plugin=toy\.py"
    ):
        jaxfm.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"^--plugin=.*one\.py: no such file"),
        ("x = 1\ny = 1 / 0\n", r"^--plugin=.*one\.py: ZeroDivisionError at one\.py:2: division by zero"),
        ("x = (\n", r"^--plugin=.*one\.py: SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_run_is_said(tmp_path: pathlib.Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "one.py").write_text(content)
    with pytest.raises(UserError, match=message):
        plugins.load(str(tmp_path / "one.py"))
    assert "jaxfm_plugin_one" not in sys.modules


def test_the_command_line_names_plugins_before_its_config(tmp_path: pathlib.Path) -> None:
    """The config file below knows the toy task only when the plugin has been run."""
    (tmp_path / "config.py").write_text(
        "from jaxfm.tasks.registry import default_config\n\n\n"
        "def get_config():\n    return default_config('toy_image')\n"
    )
    (tmp_path / "plugin.py").write_text(
        "import jaxfm\nfrom tests.toy.image import ToyImageDefinition\n\njaxfm.register(ToyImageDefinition())\n"
    )
    command = [sys.executable, "-m", "jaxfm.train", f"--config={tmp_path}/config.py", "--explain"]
    told = [*command, "--config.task.images=8", "--plugin", str(tmp_path / "plugin.py")]
    done = subprocess.run(told, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "config.task.images = 8" in done.stdout
    untold = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert untold.returncode == 2 and "'toy_image' is not a task" in untold.stderr
