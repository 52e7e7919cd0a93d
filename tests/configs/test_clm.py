"""Every variant of configs/clm.py: it builds, and differs from its sibling of configs/mlm.py in the task alone."""

import pytest

from configs import clm, mlm
from jaxfm.core.encoder_config import CAUSAL
from jaxfm.errors import UserError
from jaxfm.families.registry import presets
from jaxfm.schema import flatten, to_dict
from jaxfm.tasks.registry import from_config_dict


def test_every_variant_builds_a_causal_run() -> None:
    for variant in clm.variants():
        config = from_config_dict(clm.get_config(variant))
        assert config.task.name == "causal_lm" and config.model.sight == CAUSAL
        assert config.eval.metric == "loss" and config.optim.warmup_fraction > 0 and config.task.logits_chunk == 128
        if variant in clm.RATES:
            assert (config.model.init, config.model.preset) == ("scratch", variant) and variant in presets()
    assert from_config_dict(clm.get_config()) == from_config_dict(clm.get_config("quickstart"))


@pytest.mark.parametrize("variant", ["quickstart", "continue", *clm.RATES])
def test_a_variant_trains_as_its_masked_sibling_does(variant: str) -> None:
    own, other = (flatten(to_dict(from_config_dict(each.get_config(variant)))) for each in (clm, mlm))
    different = {name for name in own if not name.startswith("task.") and own[name] != other[name]}
    assert different == {"model.sight"}


def test_an_unknown_variant_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"configs/clm\.py has no variant 'bert_smal'\. Did you mean 'bert_small'\?"):
        clm.get_config("bert_smal")
