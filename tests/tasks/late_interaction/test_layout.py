"""What a run takes over from the files of its first weights; exports and PyLate's directories give equal vectors."""

import dataclasses
import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.core.initial import SentenceLayout, TokenLayout
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.tasks import registry
from jaxfm.tasks.late_interaction.layout import skipped_ids, taken_over, with_defaults
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.initial import resolve
from tests import tiny

QUERIES = ("ada met boole", "emmy", "gauss saw hilbert and left near delft . in essen and ghent , near the old town")
DOCUMENTS = ("the old ada saw boole .", "near ghent", "gauss , in delft . ada , and emmy . in essen and the old town")
KEYS = ("query_prompt", "document_prompt", "query_length", "document_length", "query_expansion", "skipped_tokens")


def config(folder: pathlib.Path, **overrides: Any) -> Config:
    return tiny.groups_config(folder, "late_interaction", **overrides)


def written(made: Config, workdir: pathlib.Path) -> pathlib.Path:
    """Writes a run whose parameters are those of its first weights, which must be all of them."""
    task, found = registry.create(made, resolve(made.model))
    workdirs.write_config(workdir, made)
    task.save(workdir)
    params = {name: jnp.asarray(np.asarray(value)) for name, value in found.items()}
    checkpoints = Checkpoints(workdir / workdirs.CHECKPOINTS_DIR)
    meta = {"fingerprint": "", "best": {"step": 1, "value": 0.5, "waited": 0}, "goodput": {}}
    checkpoints.save_params(1, tiny.nested(params), meta)
    checkpoints.close()
    return workdir


def drawn(folder: pathlib.Path, **overrides: Any) -> pathlib.Path:
    """Writes a run of random weights; returns its directory."""
    tiny.CONFIGS["drawn"] = lambda directory: config(directory, **overrides)
    try:
        return tiny.write_runs(folder, ["drawn"])["drawn"]
    finally:
        del tiny.CONFIGS["drawn"]


def vectors(workdir: pathlib.Path) -> list[np.ndarray]:
    model = Model(workdir)
    return [*model.embed_tokens(QUERIES, "query"), *model.embed_tokens(DOCUMENTS, "document")]


def opened(folder: pathlib.Path) -> Any:
    library = pytest.importorskip("sentence_transformers", reason="the oracle needs torch")
    return library.MultiVectorEncoder(str(folder), device="cpu")


def assert_equal(found: list[np.ndarray], theirs: list[Any]) -> None:
    for one, other in zip(found, theirs, strict=True):
        np.testing.assert_allclose(one, np.asarray(other), atol=2e-5)


def test_what_the_files_say_fills_what_is_left_open(tmp_path: pathlib.Path) -> None:
    usual = with_defaults(config(tmp_path))
    assert [getattr(usual.task, key) for key in KEYS] == ["[Q] ", "[D] ", 32, 180, "none", "none"]
    assert usual.task.dimension == 128
    initial = resolve(usual.model)
    layout = TokenLayout({"query": 9, "document": 20}, "attended", (".", ","))
    sentence = SentenceLayout(prompts={"query": "q ", "document": ""}, tokens=layout)
    params = {**initial.params, "projection/kernel": np.zeros((32, 6), np.float32)}
    initial = dataclasses.replace(initial, sentence=sentence, params=params)
    found, notes = taken_over(config(tmp_path), initial)
    assert [getattr(found.task, key) for key in KEYS] == ["q ", "", 9, 20, "attended", ". ,"]
    assert found.task.dimension == 6 and "modules.json" in notes[0]
    own = {"query_prompt": "", "query_length": 7, "query_expansion": "none", "skipped_tokens": "none"}
    found, _ = taken_over(config(tmp_path, **{f"task__{key}": value for key, value in own.items()}), initial)
    assert {key: getattr(found.task, key) for key in own} == own, "what is given stays, an empty prompt as well"
    other = dataclasses.replace(sentence, tokens=dataclasses.replace(layout, unread=("the module TokenPooling",)))
    with pytest.raises(UserError, match="config.model.init: .* by the module TokenPooling, which is not computed here"):
        taken_over(config(tmp_path), dataclasses.replace(initial, sentence=other))


def test_skipped_tokens_that_cannot_be(tmp_path: pathlib.Path) -> None:
    tokenizer = registry.create(config(tmp_path), resolve(config(tmp_path).model))[0].tokenizer  # type: ignore[attr-defined]
    ids, said = skipped_ids(config(tmp_path, task__skipped_tokens="punctuation"), tokenizer)
    assert tokenizer.convert_tokens_to_ids(".") in ids and said == "not compared of documents: ."
    assert skipped_ids(config(tmp_path, task__skipped_tokens="none"), tokenizer) == ((), "")
    assert skipped_ids(config(tmp_path, task__skipped_tokens=". xyz"), tokenizer)[1].endswith("; not tokens: xyz")
    with pytest.raises(UserError, match="skipped_tokens: 'nowhere': the tokenizer has none of these"):
        skipped_ids(config(tmp_path, task__skipped_tokens="nowhere"), tokenizer)
    with pytest.raises(UserError, match=r"skipped_tokens: '\[SEP\]' is a special token"):
        skipped_ids(config(tmp_path, task__skipped_tokens=". [SEP]"), tokenizer)
    with pytest.raises(UserError, match=r"config.data.row_length: rows of 48 .*query_length=32. Give 64 or more"):
        changed = config(tmp_path, task__query_expansion="attended")
        registry.create(changed, resolve(changed.model))


def test_mask_tokens_that_would_see_nothing_are_refused(tmp_path: pathlib.Path) -> None:
    local = dataclasses.replace(
        tiny.ENCODER, local_window=40, global_every=3, position_embedding="rope", type_vocab_size=0
    )
    changed = with_defaults(config(tmp_path, task__query_expansion="unattended"))
    definition = registry.definition("late_interaction")
    with pytest.raises(UserError, match="layers of this encoder see 20 tokens to each side, .* Give at most 20, or"):
        definition.abstract_objective(changed, local)
    definition.abstract_objective(tiny.replaced(changed, task__query_length=20), local)
    definition.abstract_objective(tiny.replaced(changed, task__query_expansion="attended"), local)


@pytest.mark.parametrize("expansion", ["none", "unattended", "attended"])
def test_an_export_has_equal_vectors_in_both_libraries(tmp_path: pathlib.Path, expansion: str) -> None:
    options = {"task__query_prompt": "in ", "task__document_prompt": "near ", "task__query_length": 12}
    options |= {"task__document_length": 16, "task__dimension": 8, "task__query_expansion": expansion}
    workdir = drawn(tmp_path, **options, task__skipped_tokens="punctuation")
    found = vectors(workdir)
    lengths = [len(each) for each in found]
    assert (lengths[:3] == [12] * 3) == (expansion != "none") and lengths[1] >= 4
    folder = export(workdir, tmp_path / "exported")
    theirs = opened(folder)
    assert_equal(found, [*theirs.encode_query(list(QUERIES)), *theirs.encode_document(list(DOCUMENTS))])
    again = written(config(tmp_path, model__init=f"dir:{folder}"), tmp_path / "again")
    assert_equal(found, vectors(again))
    spec, was = (Model(each)._predictor.spec for each in (again, workdir))
    same = ("query_prompt", "document_prompt", "query_length", "query_expansion", "skipped", "dimension")
    assert all(getattr(spec, name) == getattr(was, name) for name in same) and spec.skipped


@pytest.mark.parametrize("attended", [False, True])
def test_a_directory_of_pylate_has_equal_vectors(tmp_path: pathlib.Path, attended: bool) -> None:
    exported = export(drawn(tmp_path, task__dimension=8, task__query_prompt=""), tmp_path / "exported")
    folder = as_pylate(exported, attended)
    theirs = opened(folder)
    wanted = [*theirs.encode_query(list(QUERIES)), *theirs.encode_document(list(DOCUMENTS))]
    run = written(config(tmp_path, model__init=f"dir:{folder}", data__row_length=64), tmp_path / "again")
    spec: Any = Model(run)._predictor.spec
    assert spec.query_prompt == "[Q] " and spec.query_expansion == ("attended" if attended else "unattended")
    assert (spec.query_length, spec.document_length) == (16, 24) and spec.skipped
    found = vectors(run)
    assert [len(each) for each in found[:3]] == [16] * 3
    assert_equal(found, wanted)
    assert load_tokenizer(run / TOKENIZER_DIR).tokenize("[Q] ada")[0] == "[Q] ", "the token that PyLate puts there"
    theirs = opened(export(run, tmp_path / "out"))
    assert_equal(found, [*theirs.encode_query(list(QUERIES)), *theirs.encode_document(list(DOCUMENTS))])


def as_pylate(folder: pathlib.Path, attended: bool) -> pathlib.Path:
    """Turns an export into what PyLate 1 writes: markers as entries of the tokenizer, two modules, its settings."""
    transformers = pytest.importorskip("transformers")
    modules = json.loads((folder / "modules.json").read_text())[:2]
    modules[0]["type"] = "sentence_transformers.models.Transformer"
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    dense = json.loads((folder / "1_Dense" / "config.json").read_text())
    dense = {name: value for name, value in dense.items() if not name.startswith("module_")}
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense))
    settings = {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 16, "document_length": 24}
    settings |= {"attend_to_expansion_tokens": attended, "do_query_expansion": True, "skiplist_words": list(".,!")}
    written = {
        "__version__": {"sentence_transformers": "4.0.2"},
        "prompts": {},
        "similarity_fn_name": "MaxSim",
        **settings,
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(written))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 23, "do_lower_case": False}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["[Q] ", "[D] "])
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    return folder
