"""Every variant of configs/relations.py: it builds, and says what its name promises."""

import pytest

from configs.relations import get_config, variants
from jaxfm.errors import UserError
from jaxfm.tasks.registry import from_config_dict


def test_variants() -> None:
    assert variants() == ("quickstart", "files", "semeval", "tacred")
    for name in variants():
        assert from_config_dict(get_config(name)).task.name == "relations"
    assert get_config().data.source == "quickstart" and get_config().task.unrelated
    assert get_config("semeval").data.source == "semeval:."
    assert get_config("tacred").task.markers == "typed" and get_config("tacred").task.negative == "no_relation"
    with pytest.raises(UserError, match=r"configs/relations\.py has no variant 'tacret'\. Did you mean 'tacred'\?"):
        get_config("tacret")
