"""Labelled text that any installation of jaxfm has: docstrings, and which of ten packages each one comes from.

The packages are dependencies of jaxfm, so they are always installed; nothing is imported or run. An example is the
start of one docstring. Valid and test hold the docstrings of modules of which nothing is in another split, chosen by a
hash of the module's path; a text that occurs twice in a package is taken once, one that two packages share not at all.

Package names would give the answer away ("numpy.ndarray"), so every name of any of the ten, its usual abbreviation and
its parts of longer words are replaced by the word "package", in all texts alike: neither a name nor its absence tells
anything. What is left is what the text is about, and the house style of its authors. The same installation gives the
same examples; other versions of the packages give others, so a score belongs to an installation.
"""

import collections
import functools
import pathlib
import re
from collections.abc import Sequence

from jaxfm.data.corpora.docstrings import installed_roots, module_docstrings, package_modules
from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.table import Table, Tables, memory_table
from jaxfm.errors import UserError

PACKAGES = (
    "flax",
    "huggingface_hub",
    "jax",
    "matplotlib",
    "numpy",
    "optax",
    "orbax",
    "scipy",
    "tensorflow_datasets",
    "transformers",
)
# Examples of a package in each split, at most; the others are not used.
SIZES = {"train": 160, "valid": 30, "test": 80}
COLUMNS = ("text", "label")
_SHARES = {"valid": 0.15, "test": 0.38}  # of the modules: those with a hash below; all others are train
_CHARACTERS = 180  # of a docstring's start; some 40 pieces
_OF_A_MODULE = 12  # docstrings, so that no module is most of a package
_SPARE = 1.1
_MASK = "package"
_NAMES = re.compile(
    r"tensorflow(?:[_ -]?datasets)?|hugging[_ ]?face(?:[_ -]?hub)?|matplotlib|numpy|scipy|optax|orbax|flax|jax(?:lib)?"
    r"|tfds|(?<![a-z])(?:np|jnp|mpl|plt|pyplot|nnx|linen|ocp|tf|transformers)(?![a-z])"
    r"|(?<![a-z])hf(?-i:(?![a-z]))",  # HfApi too
    re.IGNORECASE,
)


Record = tuple[str, tuple[str, str]]
"""Where a docstring was read, and (text, package)."""


def find_packages() -> Tables:
    """Returns train, valid and test: records of a text and its package. They are collected once a process.

    Raises UserError for a package without docstrings.
    """
    splits = _collected(installed_roots())
    return Tables({name: functools.partial(_open, name, records) for name, records in splits.items()})


def _open(name: str, records: Sequence[Record]) -> Table:
    return memory_table(f"quickstart/{name} (docstrings of installed packages, their names masked)", COLUMNS, records)


def collect(roots: Sequence[pathlib.Path], packages: Sequence[str] = PACKAGES) -> dict[str, list[Record]]:
    """Returns split -> records of (origin, (text, package)), by package.

    The modules of a package are taken in the order of a hash of their path, so that its examples are a fair sample.
    Raises UserError for a package of which a split would have nothing.
    """
    found = {package: _of_package(roots, package) for package in packages}
    owners = collections.Counter(text for splits in found.values() for texts in splits.values() for text in texts)
    records: dict[str, list[Record]] = {split: [] for split in SIZES}
    for package, splits in found.items():
        for split, texts in splits.items():
            own = [(origin, (text, package)) for text, origin in texts.items() if owners[text] == 1]
            if not own:
                raise UserError(
                    f"quickstart: too few docstrings of {package} in {', '.join(map(str, roots))}: is it installed, "
                    "with its .py files? For your own data write csv:, tsv:, jsonl: or parquet:."
                )
            records[split] += own[: SIZES[split]]
    return records


def split_of(module: str) -> str:
    """Returns the split to which a module ("numpy/lib/npyio.py") belongs."""
    drawn = uniform_hash(module)
    return next((name for name, share in _SHARES.items() if drawn < share), "train")


def mask_names(text: str) -> str:
    """Returns a text in which no package is named."""
    return _NAMES.sub(_MASK, text)


def _of_package(roots: Sequence[pathlib.Path], package: str) -> dict[str, dict[str, str]]:
    """Split -> text -> origin; some more than are wanted, as another package may have the same texts."""
    splits: dict[str, dict[str, str]] = {split: {} for split in SIZES}
    seen: set[str] = set()
    for module, path in package_modules(roots, package):
        texts = splits[split_of(module)]
        room = _SPARE * SIZES[split_of(module)] - len(texts)
        if room <= 0:
            continue
        starts = {_start(text): number for number, text in enumerate(module_docstrings(path.read_bytes()))}
        new = [text for text in starts if text not in seen][:_OF_A_MODULE]
        texts |= {text: f"{module}[{starts[text]}]" for text in new}
        seen |= set(starts)
    return splits


def _start(text: str) -> str:
    """The first words of a docstring that fit, on one line."""
    words = mask_names(" ".join(text.split()))
    if len(words) <= _CHARACTERS:
        return words
    return words[: words.rfind(" ", 0, _CHARACTERS + 1)] if " " in words[:_CHARACTERS] else words[:_CHARACTERS]


@functools.cache
def _collected(roots: tuple[pathlib.Path, ...]) -> dict[str, list[Record]]:
    return collect(roots)
