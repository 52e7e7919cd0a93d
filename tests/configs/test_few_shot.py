"""Every variant of configs/few_shot.py and configs/prompts.py: it builds, and says what its name promises."""

import pytest

from configs import few_shot, prompts
from jaxfm.errors import UserError
from jaxfm.tasks.registry import from_config_dict


def test_variants_of_few_shot() -> None:
    found = {name: from_config_dict(few_shot.get_config(name)) for name in few_shot.variants()}
    assert {config.task.head for config in found.values()} == {"linear"}
    assert {config.data.holdout for config in found.values()} == {0.0}
    assert found["quickstart"].task.shots == 8 and found["multi"].task.kind == "multi"
    assert found["files"].task.fit == "setfit" and found["probe"].task.fit == "logistic_regression"
    with pytest.raises(UserError, match=r"configs/few_shot\.py has no variant 'probes'\. Did you mean 'probe'\?"):
        few_shot.get_config("probes")


def test_variants_of_prompts() -> None:
    found = {name: from_config_dict(prompts.get_config(name)) for name in prompts.variants()}
    assert {config.task.prompt.pattern for config in found.values()} == {"{text} It was {mask}."}
    assert found["zero_shot"].task.fit == "none" and found["files"].task.fit == "gradient"
    assert found["sst2"].task.shots == 16
    with pytest.raises(UserError, match=r"configs/prompts\.py has no variant 'zeroshot'\. Did you mean 'zero_shot'\?"):
        prompts.get_config("zeroshot")
