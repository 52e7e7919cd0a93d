"""The quickstart of classification: no name left, no module on two sides, the same each time."""

import re

import pytest

from jaxfm.data.corpora.docstrings import installed_roots
from jaxfm.data.records import docstring_packages
from jaxfm.data.records.docstring_packages import COLUMNS, PACKAGES, SIZES, collect, find_packages, mask_names, split_of
from jaxfm.errors import UserError

LONG = "A sentence that is long enough to be worth keeping as a line of text, number"


@pytest.fixture(scope="module")
def splits():
    tables = {name: opener() for name, opener in find_packages().splits.items()}
    return {name: list(table.values(COLUMNS)) for name, table in tables.items()}


@pytest.mark.slow
def test_ten_classes_of_real_text_in_the_promised_numbers(splits):
    assert list(splits) == list(SIZES) and len(PACKAGES) == 10
    for name, records in splits.items():
        labels = [label for _, (_, label) in records]
        assert sorted(set(labels)) == sorted(PACKAGES)
        assert all(labels.count(package) <= SIZES[name] for package in PACKAGES)
        assert len(records) >= 0.8 * 10 * SIZES[name]  # some packages have less to say


@pytest.mark.slow
def test_no_module_and_no_text_is_on_two_sides(splits):
    modules = {name: {origin.partition("[")[0] for origin, _ in records} for name, records in splits.items()}
    texts = [text for records in splits.values() for _, (text, _) in records]
    assert not modules["train"] & modules["test"] and not modules["valid"] & (modules["train"] | modules["test"])
    assert len(texts) == len(set(texts))
    for name, found in modules.items():
        assert {split_of(module) for module in found} == {name}
    assert all(origin.startswith(f"{label}/") for records in splits.values() for origin, (_, label) in records)


def test_no_text_names_a_package(splits):
    names = re.compile("|".join([*PACKAGES, "tensorflow", r"hugging ?face"]), re.IGNORECASE)
    short = re.compile(r"\b(np|jnp|plt|mpl|tfds|tf|hf|nnx|pyplot|ocp)\b", re.IGNORECASE)
    for records in splits.values():
        for origin, (text, _) in records:
            assert not names.search(text.replace("transformers.", "")), origin
            assert not short.search(text), origin
            assert 0 < len(text) <= 180 and text == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("import numpy as np; np.zeros", "import package as package; package.zeros"),
        ("A JAX array, jax.numpy or a NumPyArray", "A package array, package.package or a packageArray"),
        ("HfApi of the Hugging Face Hub, half", "packageApi of the package, half"),
        ("see `tensorflow_datasets`/TFDS and tf.data", "see `package`/package and package.data"),
        ("transformers.PreTrainedModel; a transformer", "package.PreTrainedModel; a transformer"),
        ("input, inplace, relax, stuff", "input, inplace, relax, stuff"),
    ],
)
def test_names_are_masked_wherever_they_stand(text, masked):
    assert mask_names(text) == masked


@pytest.mark.slow
def test_the_same_installation_gives_the_same_examples(splits):
    docstring_packages._collected.cache_clear()
    again = find_packages().splits["test"]()
    assert list(again.values(COLUMNS[::-1])) == [(origin, values[::-1]) for origin, values in splits["test"]]


@pytest.fixture
def write(tmp_path):
    def write(name, *texts):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f'def f{i}():\n    """{text}"""\n' for i, text in enumerate(texts)))

    return write


def test_copies_are_taken_once_and_shared_texts_not_at_all(write, tmp_path):
    for package in ("a", "b"):
        for i in range(40):
            write(f"{package}/m{i}.py", f"{LONG} {package}{i}", f"{LONG} {package} again", f"{LONG} shared")
        write(f"{package}/tests/m.py", f"{LONG} of a test")
        write(f"{package}/m_test.py", f"{LONG} of a test too")
    splits = collect([tmp_path], ["a", "b"])
    texts = [text.removeprefix(f"{LONG} ") for records in splits.values() for _, (text, _) in records]
    expected = [f"{p}{i}" for p in "ab" for i in range(40)] + ["a again", "b again"]
    assert sorted(texts) == sorted(expected)
    origins = {origin for records in splits.values() for origin, _ in records}
    assert "a/m7.py[0]" in origins


def test_no_module_is_most_of_a_package_and_long_starts_end_at_a_word(write, tmp_path):
    for i in range(30):
        write(f"a/m{i}.py", *(f"{LONG} {i} {j} " + "word " * 40 for j in range(50)))
    splits = collect([tmp_path], ["a"])
    of_modules = [origin.partition("[")[0] for records in splits.values() for origin, _ in records]
    assert max(map(of_modules.count, of_modules)) <= docstring_packages._OF_A_MODULE
    assert {text[-5:] for records in splits.values() for _, (text, _) in records} == {" word"}


def test_a_package_that_is_not_there_is_named(write, tmp_path):
    write("a/m.py", LONG)
    with pytest.raises(UserError, match=r"quickstart: too few docstrings of a in .*csv:, tsv:, jsonl: or parquet:"):
        collect([tmp_path], ["a"])
    assert installed_roots()
