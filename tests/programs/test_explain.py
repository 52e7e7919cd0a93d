"""jaxfm.explain: integrated gradients beside torch, every task, what the program prints, writes and refuses."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import jaxfm
from jaxfm.errors import UserError
from jaxfm.programs.explain import Completeness, explain, highlights, split_records
from jaxfm.programs.explain_examples import by_influence, neighbours
from jaxfm.programs.explain_faithfulness import faithfulness
from jaxfm.programs.model import Model
from jaxfm.training.attribution import INTEGRATED, OCCLUSION
from tests import tiny
from tests.programs.many_calls import call_many

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = "ada met boole in hull"
PAIR = ("who met ada", "boole met ada in the old town of hull")
NAMES = ("classification", "ner", "nested_ner", "qa", "embedding", "masked_lm", "replaced_token")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return tiny.write_runs(tmp_path_factory.mktemp("explain"), NAMES)


def check_complete(target: Mapping[str, Any]) -> None:
    total = sum(word["share"] for word in target["words"])
    assert total == pytest.approx(target["number"] - target["without"], abs=1e-3)  # of numbers with four digits
    assert any(abs(word["share"]) > 1e-3 for word in target["words"])


def torch_integrated_gradients(folder: pathlib.Path, text: str) -> tuple[np.ndarray, int]:
    """Shares of the tokens of a text in its likeliest class's logit, by a loop over transformers' model."""
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, return_tensors="pt")
    ids, table = inputs["input_ids"], model.get_input_embeddings().weight.detach()
    special = torch.tensor(tokenizer.get_special_tokens_mask(ids[0], already_has_special_tokens=True), dtype=torch.bool)
    start, end = table[torch.where(special, ids[0], tokenizer.mask_token_id)], table[ids[0]]
    best = int(model(**inputs).logits[0].argmax())
    total = torch.zeros_like(end)
    for way in (np.arange(200) + 0.5) / 200:
        given = (start + way * (end - start)).clone().requires_grad_(True)
        logit = model(inputs_embeds=given[None], attention_mask=inputs["attention_mask"]).logits[0, best]
        total += torch.autograd.grad(logit, given)[0] / 200
    return (total * (end - start)).sum(-1).numpy(), best


def test_integrated_gradients_are_those_of_torch(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    jaxfm.export(runs["classification"], tmp_path / "hf", "hf")
    shares_T, best = torch_integrated_gradients(tmp_path / "hf", TEXT)
    model = Model(runs["classification"])
    (found,) = model.explainer([model.record(TEXT, "a text")], INTEGRATED)
    (target,) = found.shares
    assert target.target.of["label"] == model.labels[best]
    ours = dict(zip(found.explained.words(), target.shares, strict=True))
    tokens = {(token.start, token.end): 0.0 for token in found.explained.tokens}
    for token in found.explained.tokens:
        tokens[token.start, token.end] += float(shares_T[token.place])
    assert np.abs(shares_T).max() > 0.01
    for (_, start, end), share in ours.items():
        assert share == pytest.approx(tokens[start, end], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "given", "keys", "parts"),
    [
        ("classification", TEXT, {"label"}, 1),
        ("qa", PAIR, {"answer", "side"}, 2),
        ("embedding", PAIR, {"similarity"}, 1),
        ("masked_lm", "ada [MASK] boole in [MASK]", {"start", "end", "token"}, 2),
    ],
)
def test_every_task_shares_out_its_numbers(
    runs: dict[str, pathlib.Path], name: str, given: Any, keys: set[str], parts: int
) -> None:
    (found,) = explain(runs[name], [given])
    assert len(found["targets"]) == parts
    for target in found["targets"]:
        assert set(target) - {"number", "without", "words", "alternatives"} == keys
        check_complete(target)
    if name == "embedding":
        vectors = [
            jaxfm.load(runs[name]).embed([text], role)[0]
            for text, role in zip(PAIR, ("query", "document"), strict=True)
        ]
        assert found["result"]["score"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)
        assert found["targets"][0]["number"] == pytest.approx(found["result"]["score"], abs=1e-3)
    elif name == "qa":
        result = jaxfm.predict(runs[name], {"text": PAIR[0], "pair": PAIR[1]})
        assert found["result"] == result
        assert {word["field"] for word in found["targets"][0]["words"]} == {"text", "pair"}
    else:
        assert found["result"] == jaxfm.predict(runs[name], given)
    if name == "masked_lm":
        words = [found["result"]["text"][word["start"] : word["end"]] for word in found["targets"][0]["words"]]
        assert words == ["ada", "boole", "in"]  # masks are no words
        of = found["result"]["masks"][0]["candidates"][0]
        (by_probability,) = explain(runs[name], given, of="probability")
        assert by_probability["targets"][0]["token"] == of["token"]
        assert by_probability["targets"][0]["number"] == pytest.approx(of["score"], abs=1e-4)


def test_entities_inside_each_other(runs: dict[str, pathlib.Path]) -> None:
    found = explain(runs["nested_ner"], [TEXT, "boole in the old town of hull near leeds"], of="probability")
    targets = [(each["result"], each["targets"]) for each in found]
    assert sum(len(parts) for _, parts in targets) > 1
    for result, parts in targets:
        for entity, target in zip(result["entities"], parts, strict=True):
            assert [target[name] for name in ("start", "end", "type")] == [
                entity[name] for name in ("start", "end", "type")
            ]
            assert target["number"] == pytest.approx(entity["score"], abs=1e-4)  # the run has no calibration
            check_complete(target)


@pytest.mark.parametrize("name", ["qa", "embedding", "masked_lm", "nested_ner"])
def test_records_together_are_as_each_alone(runs: dict[str, pathlib.Path], name: str) -> None:
    model = Model(runs[name])
    long = " ".join(["ada saw boole near hull"] * 12)  # several windows of a context
    texts: list[Any] = [PAIR, ("met", long), ("hull", "leeds")]
    texts = {"masked_lm": ["[MASK]", "a [MASK] in x"], "nested_ner": [TEXT, long, "hull"]}.get(name, texts)
    records = [model.record(each, "a text", explained=True) for each in texts]
    for record, found in zip(records, model.explainer(records, OCCLUSION), strict=True):
        (alone,) = model.explainer([record], OCCLUSION)
        assert found.explained.result == alone.explained.result
        for one, other in zip(found.shares, alone.shares, strict=True):
            np.testing.assert_allclose(one.shares, other.shares, atol=2e-5)
            assert (one.number, one.without) == pytest.approx((other.number, other.without), abs=2e-5)


def test_start_and_end_have_the_probabilities_of_their_window(runs: dict[str, pathlib.Path]) -> None:
    """Summed over the tokens that may be it, they are 1: those of the context and the first one."""
    model = Model(runs["qa"])
    (portion,) = model.explainer.prepared([model.record(PAIR, "a text", explained=True)])
    rows, (explained,) = portion
    (target, _) = explained.targets
    row = int(target.places[0, 0])
    windows = model.predictor.encode([{"text": PAIR[0], "pair": PAIR[1]}]).encoded.windows
    first, size = int(windows.first[0]), int(windows.size[0])
    import dataclasses

    every = [
        dataclasses.replace(target, places=np.asarray([[row, place, 0]])) for place in (0, *range(first, first + size))
    ]
    attribution = model.explainer.attribution([explained])
    nothing = np.zeros((len(rows), *rows.spec["tokens"].shape), bool)
    numbers = attribution.numbers(model.explainer.params, rows, every, nothing, "probabilities")
    assert numbers.sum() == pytest.approx(1, abs=1e-5) and len(numbers) == size + 1


def test_patches_of_images(tmp_path: pathlib.Path) -> None:
    jaxfm.train(tiny.image_config(tmp_path, train__steps=4), tmp_path / "run")
    model, records = Model(tmp_path / "run"), split_records(tmp_path / "run", "valid", limit=3)
    for found in model.explainer(records, INTEGRATED):
        (target,) = found.shares
        assert abs(target.missing) < 1e-3 and len(target.shares) == 16
        ((part),) = highlights(found, "score")
        assert part.shares is not None and part.pixels is not None and part.shares.shape == (4, 4)
    (occluded,) = model.explainer(records[:1], OCCLUSION)
    (number,) = [each.number for each in occluded.shares]
    assert number == pytest.approx(next(model.explainer(records[:1])).shares[0].number, abs=1e-5)


def test_faithfulness_reports_every_method(runs: dict[str, pathlib.Path]) -> None:
    model, records = Model(runs["ner"]), split_records(runs["ner"], "valid", limit=6)
    report = faithfulness(model.explainer, records, [INTEGRATED, OCCLUSION], orders=2)
    assert list(report.found) == ["random order", INTEGRATED, OCCLUSION] and 2 <= report.records <= 6
    assert report.missing is not None and report.missing < 0.01
    again = faithfulness(model.explainer, records, [OCCLUSION], orders=2)
    assert again.found["random order"] == report.found["random order"]
    with pytest.raises(UserError, match="0 of 1 records have something to explain"):
        faithfulness(model.explainer, [model.record("", "a text")], [OCCLUSION])


def test_training_examples_behind_a_result(runs: dict[str, pathlib.Path]) -> None:
    found = by_influence(runs["classification"], "valid", limit=2, top=3)
    assert len(found) == 2 and [len(each["for"]) for each in found] == [3, 3]
    for each in found:
        assert each["for"][0]["influence"] >= each["for"][1]["influence"] > each["against"][0]["influence"]
    model, train = Model(runs["ner"]), split_records(runs["ner"], "train")
    (nearest,) = neighbours(model.explainer, train, [{**train[7]}], top=2)
    assert nearest["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert nearest["nearest"][0]["text"] == nearest["example"]["text"] == " ".join(train[7]["tokens"])


def test_completeness_of_nothing_is_zero() -> None:
    assert Completeness.of([]) == Completeness(0, 0.0, 0.0)


def test_the_program(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    run = f"--workdir={runs['classification']}"
    (tmp_path / "in.csv").write_text("id,text\n7,ada met boole\n8,<b>hull</b>\n")
    given = {
        "texts": [run, TEXT],
        "file": [run, f"--input={tmp_path / 'in.csv'}", "--method=occlusion", f"--output={tmp_path / 'out'}"],
        "faithful": [run, "--split=valid", "--limit=4", "--faithfulness", "--method=occlusion", "--orders=1"],
        "again": [run, TEXT, f"--output={tmp_path / 'out'}"],
        "nothing": [run],
        "both": [run, TEXT, "--split=valid"],
        "method": [run, TEXT, "--method=gradients"],
        "several": [run, TEXT, "--method=occlusion,rollout"],
        "task": [f"--workdir={runs['replaced_token']}", TEXT],
        "no mask": [f"--workdir={runs['masked_lm']}", TEXT],
        "no pair": [f"--workdir={runs['embedding']}", TEXT],
        "no labels": [run, TEXT, "--examples=influence"],
    }
    found = dict(zip(given, call_many("explain", list(given.values())), strict=True))
    code, printed, errors = found["texts"]
    assert (code, errors) == (0, "") and "\x1b" not in printed
    assert "completeness error: 0.0" in printed and "boole" in printed and "label " in printed
    assert found["file"][0] == 0, found["file"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "explanations.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["7", "8"] and lines[0]["targets"][0]["words"][0]["end"] == 3
    assert "<b>hull" not in (tmp_path / "out" / "explanations.html").read_text()
    assert (tmp_path / "out" / "explanations.png").stat().st_size > 1000
    assert found["faithful"][0] == 0 and "random order" in found["faithful"][1]
    messages = {
        "again": "is there already",
        "nothing": "give one of: texts, --input, --split",
        "both": "give one of: texts, --input, --split",
        "method": "'gradients' is none of integrated_gradients",
        "several": "several are compared by --faithfulness",
        "task": "results of the task replaced_token are not explained",
        "no mask": "has no mask. Write [MASK] where a word is to be explained",
        "no pair": "has 0 tabs; this model judges pairs of texts",
        "no labels": "needs examples with labels: give --split=valid",
    }
    for name, message in messages.items():
        code, printed, errors = found[name]
        assert code == 2 and message in " ".join(errors.split()) and not printed, (name, found[name])
