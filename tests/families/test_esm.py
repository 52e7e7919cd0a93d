"""ESM-2: the scale of unmasked tokens, and the tokenizer that the documentation makes."""

import pathlib
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np

from jaxfm.data.text.tokenization import check_tokenizer, load_tokenizer
from jaxfm.families.registry import preset
from jaxfm.models.inputs.text import token_dropout

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The vocabulary of the published checkpoints, in its order.
NAMES = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()


def test_masks_are_zero_and_the_others_make_up_for_them_segment_by_segment() -> None:
    tokens = jnp.asarray([[5, 32, 6, 7, 32, 32, 8, 1]])
    segments = jnp.asarray([[1, 1, 1, 1, 2, 2, 2, 0]])
    found = np.asarray(token_dropout(tokens, segments, 32))[0]
    first, second = 0.88 / (1 - 1 / 4), 0.88 / (1 - 2 / 3)
    np.testing.assert_allclose(found[:7], [first, 0, first, first, 0, 0, second], rtol=1e-6)
    assert np.isfinite(np.asarray(token_dropout(jnp.full((1, 3), 32), jnp.ones((1, 3), jnp.int32), 32))).all()


def test_the_tokenizer_of_the_documentation_is_that_of_transformers(tmp_path: pathlib.Path) -> None:
    from transformers import EsmTokenizer

    section = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").partition("## Proteins")[2]
    (program,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    (tmp_path / "esm2").mkdir()
    (tmp_path / "esm2" / "vocab.txt").write_text("\n".join(NAMES))
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    theirs, ours = EsmTokenizer(str(tmp_path / "esm2" / "vocab.txt")), load_tokenizer(tmp_path / "esm2-tokenizer")
    for text in ("MKTLLV", "AG<mask>V", "XBJ"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    check_tokenizer(ours, preset("esm2_8m"), tmp_path, needs_mask=True)
