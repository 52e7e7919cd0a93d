"""The peft library opens what is exported for it, over the base model, and computes the same logits."""

import dataclasses
import json
import pathlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxfm.adapt_config import AdaptConfig, LoraConfig
from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.initial import Origin
from jaxfm.errors import UserError
from jaxfm.families.registry import FAMILIES
from jaxfm.hub import peft as ours
from jaxfm.hub.config_json import hf_config
from jaxfm.hub.weights import read_checkpoint, write_tensors
from jaxfm.models.adapters import is_adapter_param, merge_low_rank, with_adapters
from jaxfm.models.heads import TokenClassifier
from jaxfm.parallel import mesh as meshes
from jaxfm.programs.export import export
from jaxfm.programs.predict import predict
from jaxfm.programs.train import train
from tests import tiny

torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed with the test extra on Python 3.11")
peft = pytest.importorskip("peft", reason="peft is the oracle; it is installed with the test extra on Python 3.11")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

# What peft 0.21 reads of transformers 5.23.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LABELS = ("O", "B-X", "I-X", "B-Y", "I-Y")
SIZES = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
CONFIGS = {
    "bert": ("BertConfig", {"max_position_embeddings": 24}),
    "roberta": ("RobertaConfig", {"max_position_embeddings": 26, "type_vocab_size": 1}),
    "electra": ("ElectraConfig", {"max_position_embeddings": 24, "embedding_size": 32}),
    "modernbert": (
        "ModernBertConfig",
        {"max_position_embeddings": 24, "local_attention": 6, "pad_token_id": 0}
        | dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
    ),
}


def write_base(folder: pathlib.Path, family: str) -> None:
    """A base model of wide random weights as its library saves it; its head is one of pretraining."""
    name, own = CONFIGS[family]
    torch.manual_seed(0)
    model = getattr(transformers, FAMILIES[family].architecture + "ForMaskedLM")(
        getattr(transformers, name)(**SIZES | own)
    )
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(mean=1.0 if name.lower().endswith("norm.weight") else 0.0, std=0.2)
    model.save_pretrained(folder)


def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(5, 90, (3, 20))


def torch_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(
            input_ids=torch.from_numpy(tokens()), attention_mask=torch.ones(3, 20).long()
        ).logits.numpy()


def our_logits(encoder: Any, params: dict[str, np.ndarray]) -> np.ndarray:
    def make() -> nnx.Module:
        return TokenClassifier(encoder, len(LABELS), DEFAULT_BUILD, nnx.Rngs(0))

    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    ones = jnp.ones((3, 20), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(20), ones.shape)
    batch = {"tokens": jnp.asarray(tokens()), "segment_ids": ones, "positions": positions, "type_ids": 0 * ones}
    nested = flax.traverse_util.unflatten_dict(params, sep="/")
    return np.asarray(jax.jit(lambda params: nnx.merge(graphdef, params)(batch))(nested))


def trained(encoder: Any, base: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As after training: the base as it was, all else drawn anew."""
    draw = np.random.default_rng(3)
    shapes: dict[str, Any] = flax.traverse_util.flatten_dict(
        jax.eval_shape(
            lambda: meshes.initialise(lambda: TokenClassifier(encoder, len(LABELS), DEFAULT_BUILD, nnx.Rngs(0)))
        ),
        sep="/",
    )
    return {
        path: base[path]
        if path.startswith("encoder/") and not is_adapter_param(path)
        else (path.endswith("scale") + 0.2 * draw.normal(size=leaf.shape)).astype(np.float32)
        for path, leaf in shapes.items()
    }


@pytest.mark.parametrize(
    "targets", [("query", "value"), pytest.param(("key", "down"), marks=pytest.mark.slow), ("all",)], ids=str
)
@pytest.mark.parametrize("family", CONFIGS)
def test_peft_computes_the_same_logits(family: str, targets: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    write_base(tmp_path / "base", family)
    checkpoint = read_checkpoint(tmp_path / "base")
    settings = AdaptConfig(lora=LoraConfig(rank=3, alpha=7.0, targets=targets))
    encoder = with_adapters(checkpoint.encoder, settings)
    params = trained(encoder, checkpoint.arrays())
    merged, output = tmp_path / "merged", tmp_path / "peft"
    merged.mkdir(), output.mkdir()
    pad = 1 if family == "roberta" else 0
    values = hf_config(encoder, head="token_classes", pad_token_id=pad, labels=LABELS)
    (merged / "config.json").write_text(json.dumps(values))
    write_tensors(merged / "model.safetensors", encoder, "token_classes", merge_low_rank(encoder, params)[1])
    ours.write_adapter(output, merged, encoder, params, (str(tmp_path / "base"), ""))
    assert {path.name for path in output.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "config.json",
    }  # fmt: skip

    base = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "base", num_labels=len(LABELS))
    before = torch_logits(base)
    expected = our_logits(encoder, params)
    opened = peft.PeftModel.from_pretrained(base, output)
    np.testing.assert_allclose(torch_logits(opened), expected, atol=5e-5)
    assert np.abs(before - expected).max() > 0.1
    # Nothing of it was ignored, and merged by peft it is still the same.
    theirs = peft.get_peft_model_state_dict(opened)
    kept = safetensors.numpy.load_file(output / "adapter_model.safetensors")
    assert set(theirs) == set(kept)
    for name, value in kept.items():
        np.testing.assert_array_equal(theirs[name].numpy(), value, err_msg=name)
    np.testing.assert_allclose(torch_logits(opened.merge_and_unload()), expected, atol=5e-5)
    # The weights that are merged here are those that peft merges.
    whole = transformers.AutoModelForTokenClassification.from_pretrained(merged)
    np.testing.assert_allclose(torch_logits(whole), expected, atol=5e-5)


SETTINGS = {"adapt__lora__rank": 2, "adapt__lora__targets": ("all",), "train__steps": 6}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.config(tmp_path_factory.mktemp("peft"), **SETTINGS)


@pytest.mark.slow
def test_a_run_goes_out_both_ways(config: Config, tmp_path: pathlib.Path) -> None:
    train(config, tmp_path / "run")
    merged = export(tmp_path / "run", tmp_path / "hf")
    output = export(tmp_path / "run", tmp_path / "peft", format="peft")
    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    text = "ada went to old arles ."
    inputs = tokenizer(text, return_tensors="pt")
    names = transformers.AutoConfig.from_pretrained(output)
    assert tuple(names.id2label.values()) == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    whole = transformers.AutoModelForTokenClassification.from_pretrained(merged).eval()
    base = transformers.AutoModelForTokenClassification.from_pretrained(
        json.loads((output / "adapter_config.json").read_text())["base_model_name_or_path"],
        config=names,
        ignore_mismatched_sizes=True,  # the base has a head of its own
    )
    opened = peft.PeftModel.from_pretrained(base, output).eval()
    with torch.no_grad():
        expected, got = whole(**inputs).logits, opened(**inputs).logits
    np.testing.assert_allclose(got, expected, atol=1e-5)
    # The entities that jaxfm itself finds begin where peft says so, on the first piece of each word.
    words = inputs.word_ids()
    said = [names.id2label[int(got[0, words.index(word)].argmax())] for word in range(len(text.split()))]
    found = [entity["text"].split()[0] for entity in predict(tmp_path / "run", [text])[0]["entities"]]
    assert [word for word, label in zip(text.split(), said, strict=True) if label[0] == "B"] == found


@pytest.mark.slow
def test_a_classifier_of_texts_goes_out_with_its_pooler(tmp_path: pathlib.Path) -> None:
    for split, count in (("train", 24), ("valid", 8)):
        lines = [f"{'ada saw' if n % 2 else 'old'} town near hull,{'yes' if n % 2 else 'no'}" for n in range(count)]
        (tmp_path / "csv").mkdir(exist_ok=True)
        (tmp_path / "csv" / f"{split}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    train(tiny.classification_config(tmp_path, data__source=f"csv:{tmp_path / 'csv'}", **SETTINGS), tmp_path / "run")
    merged = export(tmp_path / "run", tmp_path / "hf")
    output = export(tmp_path / "run", tmp_path / "peft", format="peft")
    values = json.loads((output / "adapter_config.json").read_text())
    assert values["task_type"] == "SEQ_CLS" and values["modules_to_save"] == ["bert.pooler", "classifier"]
    classes = transformers.AutoModelForSequenceClassification
    whole = classes.from_pretrained(merged).eval()
    base = classes.from_pretrained(
        values["base_model_name_or_path"],
        config=transformers.AutoConfig.from_pretrained(output),
        ignore_mismatched_sizes=True,
    )
    opened = peft.PeftModel.from_pretrained(base, output).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(output)("ada saw old town .", return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(opened(**inputs).logits, whole(**inputs).logits, atol=1e-5)


def test_what_cannot_go_out_as_peft(config: Config, tmp_path: pathlib.Path) -> None:
    encoder, init = with_adapters(tiny.ENCODER, config.adapt), config.model.init
    assert ours.base_model(encoder, "hf:owner/name@v1") == ("owner/name", "v1")
    assert ours.base_model(encoder, init) == (init.removeprefix("dir:"), "")
    for other in ("scratch", f"run:{tmp_path}"):
        with pytest.raises(UserError, match=r"--format=peft: the run started from .*, which is no base model"):
            ours.base_model(encoder, other)
    origin = Origin("hf:owner/name@v1", "c" * 40, "", encoder.vocab_size)
    assert ours.base_model(encoder, "hf:owner/name@v1", origin) == ("owner/name", "c" * 40)
    fewer = dataclasses.replace(origin, vocab_size=90)
    with pytest.raises(UserError, match=r"the vocabulary has 96 entries, that of the base model 'hf:owner/name@v1' 90"):
        ours.base_model(encoder, "hf:owner/name@v1", fewer)
    with pytest.raises(UserError, match=r"not trained with config\.adapt\.lora\.rank\. Take --format=hf"):
        ours.base_model(tiny.ENCODER, init)
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "config.json").write_text(json.dumps({"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(UserError, match="peft has no task for BertForMaskedLM"):
        ours.write_adapter(tmp_path, merged, encoder, {}, ("base", ""))
