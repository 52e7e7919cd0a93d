"""The reference of all keys is generated, and says what the schema says."""

import pathlib

from jaxfm.config import Config
from jaxfm.programs import keys, reference
from jaxfm.schema import Key, describe
from jaxfm.tasks import registry

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_page_of_the_repository_is_the_one_that_is_generated() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference.keys_page(), "run: python -m jaxfm.reference --output=docs/configuration.md"


def test_every_key_of_every_task_is_in_it() -> None:
    page = reference.keys_page()
    names = [key.name for key in describe(Config()) if key.name != "task"]
    for name in registry.names():
        assert f"## Task `{name}`" in page
        names += [key.name for key in describe(registry.definition(name).config_class(), "task.")]
    assert all(f"| `{key}` |" in page for key in names) and len(names) > 80


def test_a_key_says_its_value_and_where_it_differs_its_default() -> None:
    values = registry.default_config("ner")
    values.train.batch_size = 4
    lines = "\n".join(keys.explain(registry.from_config_dict(values)))
    assert "config.train.batch_size = 4  (int, at least 1, or 'auto', or 'examples'; default 'examples')\n" in lines
    assert "config.train.min_steps = 200  (int, at least 0)\n" in lines  # the task's own default
    assert "config.task.context = 'sentence'  ('sentence', 'document')\n" in lines
    assert "[adapt.lora]\nconfig.adapt.lora.rank = 0  (int, at least 0)\n" in lines


def test_types_and_ranges_in_words() -> None:
    found = {key.name: key for key in describe(registry.from_config_dict(registry.default_config("masked_lm")))}
    assert found["task.final_ratio"] == Key(
        "task.final_ratio",
        None,
        None,
        "float or None, above 0.0, at most 0.9",
        "the same at the last step, linear between; None: the ratio stays",
    )
    assert found["optim.no_decay"].allowed == "tuple of strings" and found["seed"].allowed == "int, at least 0"
