"""Images and texts from files to scores, vectors, classes and exports, and what is refused."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.core.objective import LossContext
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.tasks.image_text.scorer import ranks
from jaxfm.tasks.registry import create
from jaxfm.training.initial import resolve
from tests import tiny

PROMPT = "the {} town"


def config(directory: pathlib.Path, **overrides: Any) -> Config:
    """Pictures whose caption says whether they are dark or light, by words that the tiny tokenizer knows."""
    folder = directory / "pairs"
    if not folder.exists():
        write_pairs(folder)
    made = tiny.image_config(directory, "image_text", task__text_init=f"dir:{directory / 'weights'}")
    if not (directory / "weights").exists():
        tiny.write_weights(directory / "weights")
    values = {
        "data.source": f"csv:{folder}", "task.label_prompt": PROMPT, "task.dimension": 16, "eval.metric": "recall@1",
        "train.steps": 30, "optim.learning_rate": 3e-3,
    }  # fmt: skip
    named = {name.replace(".", "__"): each for name, each in values.items()}
    return tiny.replaced(made, **{**named, **overrides})


def write_pairs(folder: pathlib.Path) -> None:
    tiny.write_images(folder / "pictures")
    for split in ("train", "valid", "test"):
        lines = ["path,caption,label"]
        for path in sorted((folder / "pictures" / split).rglob("*.png")):
            label = "old" if path.parent.name == "dark" else "near"
            number = int(path.stem) % 4
            lines.append(f"{path.relative_to(folder)},saw the {label} town {'and ' * number}left,{label}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    train(config(folder), folder / "run")
    return folder / "run"


def test_a_run_learns_what_belongs_together(run: pathlib.Path) -> None:
    report = json.loads((run / "report.json").read_text())
    scores = report["splits"]["test"]
    assert scores["zero_shot_accuracy"] > 0.9
    assert scores["text_of_image_recall@5"] >= scores["text_of_image_recall@1"] > 0
    lines = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    assert all(line["correct"] == (line["rank"] == 1) for line in lines)


def test_a_trained_run_compares_images_with_any_classes(run: pathlib.Path, folder: pathlib.Path) -> None:
    light = next((folder / "pairs" / "pictures" / "test" / "light").glob("*.png"))
    model = Model(run)
    found = model(light)
    assert found["label"] == "near" and set(found["scores"]) == {"near", "old"} and found["image"] == str(light)
    other = Model(run, labels=["old", "near", "hull"])(light)
    assert set(other["scores"]) == {"old", "near", "hull"} and other["scores"]["near"] > other["scores"]["old"]
    np.testing.assert_allclose(sum(other["scores"].values()), 1.0, atol=1e-3)
    dark = next((folder / "pairs" / "pictures" / "test" / "dark").glob("*.png"))
    texts, images = model.embed(["saw the near town and left", ""]), model.embed_images([light, dark])
    assert texts.shape == images.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1.0, rtol=1e-5)
    assert texts[0] @ images[0] > texts[0] @ images[1]
    (written,) = model(["saw the near town and left"])
    np.testing.assert_allclose(written["vector"], texts[0], atol=1e-6)
    with pytest.raises(UserError, match="two texts at least, all different"):
        Model(run, labels=["old"])


def test_equal_texts_and_equal_images_are_not_negatives(folder: pathlib.Path) -> None:
    made = config(folder)
    task, _ = create(made, resolve(made.model))
    objective: Any = task.objective
    vectors = jnp.asarray(np.eye(4, 16), jnp.float32)
    numbers = jnp.asarray([[0, 10], [1, 10], [2, 11], [0, 12]], jnp.int32)  # two equal texts, two equal images

    class Scale:
        scale = jnp.asarray(5.0)

    loss = objective.compare(Scale(), (vectors, vectors), {"numbers": numbers}, LossContext(jax.random.key(0)))
    # Equal texts (rows 0 and 1) are not each other's negatives in either way; of equal images (rows 0 and 3) the texts
    # differ and are negatives of both, but on the way back the image of the one is not that of the other.
    there = {0: 2, 1: 2, 2: 3, 3: 3}
    back = {0: 1, 1: 2, 2: 3, 3: 2}
    wanted = sum(np.log(np.exp(5) + there[row]) + np.log(np.exp(5) + back[row]) - 10 for row in range(4)) / 2
    assert float(loss.weight) == 4
    np.testing.assert_allclose(loss.total, wanted, rtol=1e-5)


def test_ranks_count_what_is_as_similar() -> None:
    images = np.eye(3)
    texts = np.asarray([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    np.testing.assert_array_equal(ranks(images, texts, np.asarray([0, 1, 2])), [2, 3, 1])
    np.testing.assert_array_equal(ranks(images, texts, np.asarray([0, 0, 2])), [1, 2, 1])


@pytest.mark.parametrize("loss", ["infonce", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_micro_batches_have_the_gradient_of_the_whole(folder: pathlib.Path, loss: str) -> None:
    from jaxfm.parallel.mesh import make_mesh
    from jaxfm.training.setup import set_up

    found = []
    for accumulate in (1, 4):
        made = config(
            folder, task__loss=loss, train__accumulate=accumulate, train__steps=3, train__batch_size=16,
            task__augment__flip=True, task__augment__pad_crop=1, model__dropout=0.1,
        )  # fmt: skip
        initial = resolve(made.model)
        task, loaded = create(made, initial)
        mesh = make_mesh(made.parallel.mesh)
        setup = set_up(made, task, loaded, mesh)
        losses = []
        for stepped in setup.session.steps(setup.initial_state(), setup.batches.iterate(0, 3)):
            sums = jax.device_get(stepped.sums)
            losses.append(float(sums["loss"][0] / sums["loss"][1]))
        found.append(losses)
    np.testing.assert_allclose(found[0], found[1], rtol=2e-6)


def test_an_export_has_the_vectors_of_the_run(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    made = config(folder, task__image_pooling="pooler", task__text_pooling="pooler", train__steps=3)
    train(made, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "hf")
    theirs = transformers.VisionTextDualEncoderModel.from_pretrained(tmp_path / "hf").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = Model(tmp_path / "run")
    light = next((folder / "pairs" / "pictures" / "test" / "light").glob("*.png"))
    text = "saw the near town left"
    pixels = np.asarray(Image.open(light).convert("L"))
    spec: Any = ours._predictor.spec
    scaled = (pixels / 255 - spec.layout.mean[0]) / spec.layout.std[0]
    with torch.no_grad():
        found = theirs(
            pixel_values=torch.tensor(scaled[None, None], dtype=torch.float32), **tokenizer(text, return_tensors="pt")
        )
    np.testing.assert_allclose(ours.embed_images([light])[0], found.image_embeds[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.embed([text])[0], found.text_embeds[0].numpy(), atol=1e-5)
    assert processor is not None


def test_what_is_refused(run: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for change, words in (
        ({"data__packed": True}, "a row is one image and its text"),
        ({"task__text_init": ""}, "task.text_init: is empty"),
        ({"task__label_prompt": "a town"}, "must stand where the class's name goes"),
        ({"task__augment__mixup": 1.0}, "mixes labels, and this task has none"),
    ):
        made = config(folder, **change)
        with pytest.raises(UserError, match=words):
            create(made, resolve(made.model))
    with pytest.raises(UserError, match="takes the pooled output of both towers"):
        export(run, tmp_path / "hf")
    bad = tmp_path / "bad"
    write = config(tmp_path)
    csv = tmp_path / "pairs" / "train.csv"
    csv.write_text(csv.read_text() + "pictures/train/dark/0.png,,old\n")
    with pytest.raises(UserError, match=r"train\.csv:62"):
        create(write, resolve(write.model))
    assert not bad.exists()


def test_broken_images_of_a_model_are_named(run: pathlib.Path) -> None:
    model = Model(run)
    with pytest.raises(UserError, match="it looks like text"):
        model(StoredImage("note.png", data=b"hello there"))
