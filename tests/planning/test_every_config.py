"""Every shipped config compiles for a TPU: the small ones wherever libtpu is, the others in `make plan-all`."""

import importlib
import importlib.util
import pathlib
from collections.abc import Iterator

import jax
import pytest

from jaxfm.config import Config
from jaxfm.data.records.glue import GLUE
from jaxfm.errors import UserError
from jaxfm.planning.estimate import Subject, make_plan
from jaxfm.planning.hardware import parse_topology
from jaxfm.tasks.registry import from_config_dict

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu (the extra tpu) is not installed"
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
# File and variant -> smallest topology whose chips hold it; those of the second list take minutes each.
SMALL = {
    ("ner", "quickstart"): "v5e:2x2",
    ("nested_ner", "quickstart"): "v5e:2x2",
    ("zero_shot_ner", "quickstart"): "v5e:2x2",
    ("mlm", "quickstart"): "v5e:2x2",
    ("mlm", "bert_tiny"): "v4:2x2x1",
    ("mlm", "rtd_quickstart"): "v5e:2x2",
    ("clm", "quickstart"): "v5e:2x2",
    ("clm", "tiny"): "v4:2x2x1",
    ("classification", "quickstart"): "v5e:2x2",
    ("relations", "quickstart"): "v5e:2x2",
    ("embedding", "quickstart"): "v5e:2x2",
    ("seq2seq", "quickstart"): "v5e:2x2",
    ("late_interaction", "quickstart"): "v5e:2x2",
    ("image_classification", "quickstart"): "v5e:2x2",
    ("audio_classification", "quickstart"): "v5e:2x2",
    ("speech_recognition", "quickstart"): "v5e:2x2",
    ("masked_sound", "quickstart"): "v5e:2x2",
    ("masked_images", "quickstart"): "v5e:2x2",
    ("image_text", "quickstart"): "v5e:2x2",
    ("detection", "quickstart"): "v5e:2x2",
    ("recommend", "quickstart"): "v5e:2x2",
    ("image_generation", "quickstart"): "v5e:2x2",
}
LARGE = {
    **{("audio_classification", name): "v5e:2x2" for name in ("files", "multi", "digits")},
    ("audio_classification", "finetune"): "v5e:2x4",
    **{("speech_recognition", name): "v5e:2x2" for name in ("files", "digits", "joined")},
    **{("masked_sound", name): "v5e:2x2" for name in ("files", "digits")},
    **{("image_classification", name): "v5e:2x2" for name in ("files", "multi", "cifar10")},
    ("image_classification", "finetune"): "v5e:2x4",
    **{("detection", name): "v5e:2x2" for name in ("files", "yolos")},
    **{("recommend", name): "v5e:2x2" for name in ("files", "bert4rec", "movielens")},
    ("image_generation", "files"): "v5e:2x2",
    **{("masked_images", name): "v5e:2x2" for name in ("files", "simmim", "cifar10")},
    ("masked_images", "imagenet"): "v5e:8x8",
    **{("image_text", name): "v5e:2x2" for name in ("files", "sigmoid")},
    ("image_text", "lit"): "v5e:2x4",
    **{("image_text", name): "v5e:4x4" for name in ("clip", "siglip")},
    ("image_text", "scratch"): "v5e:4x4",
    **{("seq2seq", name): "v5e:2x2" for name in ("prefix", "files", "files_prefix")},
    ("ner", "files"): "v5e:2x2",
    ("ner", "best"): "v5e:2x2",
    ("nested_ner", "files"): "v5e:2x2",
    **{("zero_shot_ner", name): "v5e:2x2" for name in ("files", "described")},
    ("ner", "wnut17"): "v6e:2x2",
    ("ner", "conll2003"): "v5e:2x4",
    ("relations", "files"): "v5e:2x2",
    **{("embedding", name): "v5e:2x2" for name in ("files", "scored", "stsb", "nli", "dialogue", "teacher")},
    **{("late_interaction", name): "v5e:2x2" for name in ("files", "teacher")},
    ("relations", "semeval"): "v5e:2x2",
    ("relations", "tacred"): "v5e:2x4",
    ("mlm", "continue"): "v5p:2x2x1",
    ("mlm", "bert_mini"): "v5e:2x2",
    ("mlm", "bert_small"): "v6e:2x2",
    ("mlm", "bert_base"): "v5e:4x4",
    ("mlm", "rtd_bert_base"): "v5e:4x4",
    ("mlm", "bert_large"): "v5e:8x8",
    ("mlm", "modern_tiny"): "v5e:2x4",
    ("mlm", "modern_base"): "v5p:2x2x4",
    ("mlm", "modern_large"): "v5p:4x4x4",
    ("mlm", "deberta_v3_xsmall"): "v6e:2x2",
    ("mlm", "deberta_v3_small"): "v5e:4x4",
    ("mlm", "deberta_v3_base"): "v5e:4x4",
    ("mlm", "rtd_deberta_v3_base"): "v5e:4x4",
    ("mlm", "deberta_v3_large"): "v5e:8x8",
    ("mlm", "xlmr_xl"): "v5e:16x16",
    ("clm", "continue"): "v5p:2x2x1",
    ("clm", "bert_mini"): "v5e:2x2",
    ("clm", "bert_small"): "v6e:2x2",
    ("clm", "bert_base"): "v5e:4x4",
    ("clm", "bert_large"): "v5e:8x8",
    ("clm", "modern_tiny"): "v5e:2x4",
    ("clm", "modern_base"): "v5p:2x2x4",
    ("clm", "modern_large"): "v5p:4x4x4",
    **{("qa", variant): "v5e:2x2" for variant in ("quickstart", "files")},
    **{("qa", variant): "v5e:2x4" for variant in ("squad", "squad_v2")},
    **{("classification", variant): "v5e:2x2" for variant in ("files", "multi", "regression")},
    **{("classification", name): "v5e:2x4" for name in GLUE},
    **{("few_shot", variant): "v5e:2x2" for variant in ("quickstart", "files", "multi", "probe")},
    **{("prompts", variant): "v5e:2x4" for variant in ("zero_shot", "files", "sst2")},
}
# Where a repository of the hub is out of reach: the shape of its weights.
SHAPES = {
    **{f"hf:google-bert/bert-base-{case}": "bert_base" for case in ("cased", "uncased")},
    "hf:google/vit-base-patch16-224-in21k": "vit_base",
    "hf:facebook/dinov2-small": "dinov2_small",
    "hf:openai/clip-vit-base-patch32": "clip_vit_b32",
    "hf:google/siglip-base-patch16-224": "siglip_b16",
}
# The text towers beside these.
TEXT_SHAPES = {"hf:openai/clip-vit-base-patch32": "clip_text_b", "hf:google/siglip-base-patch16-224": "siglip_text_b"}


def test_no_config_is_forgotten() -> None:
    for file in sorted(path.stem for path in (ROOT / "configs").glob("*.py")):
        there = set(importlib.import_module(f"configs.{file}").variants())
        # Every variant of mlm has one for replaced-token detection with the same encoder: two of them stand for all.
        there = {name for name in there if not name.startswith("rtd_") or (file, name) in (*SMALL, *LARGE)}
        assert there == {variant for name, variant in (*SMALL, *LARGE) if name == file}, file


def subject(file: str, variant: str) -> Subject:
    values = importlib.import_module(f"configs.{file}").get_config(variant)
    config: Config = from_config_dict(values)
    try:
        return Subject.of(config)
    except UserError:
        if config.model.init.startswith("package:"):
            pytest.skip(f"{config.model.init} is not installed")
        if config.model.init in TEXT_SHAPES:
            values.task.text_init, values.task.text_preset = "scratch", TEXT_SHAPES[config.model.init]
        values.model.preset, values.model.init = SHAPES[config.model.init], "scratch"
        return Subject.of(from_config_dict(values))


@pytest.fixture(autouse=True)
def no_cache() -> Iterator[None]:
    """A program compiled for chips that are not there cannot be read back from a cache (GLUE's sets share one)."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


def compiles(file: str, variant: str, topology: str) -> None:
    plan = make_plan(subject(file, variant), parse_topology(topology))
    assert plan.memory.fits, plan.notes
    assert not [row for row in plan.collectives if row.kind.startswith("unknown") or row.axes == "?"]
    assert plan.mfu is not None and 0 < plan.mfu < 1


@needs_libtpu
@pytest.mark.parametrize(("file", "variant"), SMALL, ids="-".join)
def test_a_small_config_compiles(file: str, variant: str) -> None:
    compiles(file, variant, SMALL[file, variant])


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(("file", "variant"), LARGE, ids="-".join)
def test_a_large_config_compiles(file: str, variant: str) -> None:
    compiles(file, variant, LARGE[file, variant])
