"""What a run says of how much is masked, and texts of which nothing can be."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.data.arrays import ArrayDataset
from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.data.text.masking import Masking
from jaxfm.errors import UserError
from jaxfm.tasks.mask_shares import mask_notes, mask_split, mask_sums, row_counts, scored_part
from tests import tiny

PAD, UNK, CLS, SEP, MASK, V = 0, 1, 2, 3, 4, 100


@dataclasses.dataclass(frozen=True)
class Asked:
    """A task as far as its masks go."""

    masking: Masking = Masking("token")
    ratios: tuple[float, float] = (0.15, 0.15)
    units: tuple[str, ...] = ("token", "span")
    marks_words: bool = True

    @property
    def vocabulary(self) -> MaskVocabulary:
        return MaskVocabulary(MASK, np.arange(V) > 4, np.arange(V) > 60, self.marks_words)


def rows_of(count: int, length: int, unknown: float = 0.0) -> ArrayDataset:
    """Rows of 16 tokens of which `length` are text, between [CLS] and [SEP]."""
    draw = np.random.default_rng(2)
    tokens = np.where(draw.random((count, 16)) < unknown, UNK, draw.integers(5, V, (count, 16)))
    tokens[:, 0], tokens[:, length + 1] = CLS, SEP
    segments = np.broadcast_to(np.arange(16) < length + 2, tokens.shape)
    tokens = np.where(segments, tokens, PAD)
    return tiny.text_dataset({"tokens": tokens, "segment_ids": segments}, PAD)


def notes(rows: ArrayDataset, task: Asked | None = None) -> tuple[str, ...]:
    counts = np.bincount(rows.arrays["tokens"].ravel(), minlength=V) * (np.arange(V) != PAD)
    return mask_notes(task or Asked(), rows, counts, {})


def test_a_run_says_how_much_is_masked() -> None:
    (said,) = notes(rows_of(2000, 14))
    assert said.startswith("masks by token, drawn once for 1,024 training rows: 15.0% of the tokens of text; 0.0% of")
    held_out = mask_split(Asked(), "valid", rows_of(50, 14), 20)
    said = mask_notes(Asked(), rows_of(20, 14), np.ones(V), {"valid": held_out})
    assert said[-1] == "valid: 20 of its 50 rows are scored, evenly spread (config.task.eval_rows)"
    assert row_counts(held_out) == {"rows": 20, "rows_of_the_split": 50}
    assert scored_part(held_out) == "; 20 of the split's 50 rows, see config.task.eval_rows"
    assert scored_part(mask_split(Asked(), "valid", rows_of(5, 14), 0)) == ""


def test_rows_without_a_target_are_said() -> None:
    said = notes(rows_of(600, 2))
    assert "WARNING: 70." in said[1] or "WARNING: 69." in said[1] or "WARNING: 71." in said[1], said  # 1 - 2 * 0.15
    assert "config.data.packed" in said[1] and len(said) == 2


def test_text_of_unknown_tokens_is_said_or_refused() -> None:
    said = notes(rows_of(600, 14, unknown=0.6))
    assert len(said) >= 2 and "does not fit this text" in said[-1] and "where config.task.ratio is 15.0%" in said[-1]
    for call in (
        lambda: notes(rows_of(600, 14, unknown=1.0)),
        lambda: mask_split(Asked(), "test", rows_of(60, 14, unknown=1.0), 0),
    ):
        with pytest.raises(UserError, match=r"(train|test): none of its [\d,]+ tokens can be masked.*unknown tokens"):
            call()
    with pytest.raises(UserError, match=r"valid: none of its 1 tokens is masked.*too short.*config\.data\.holdout"):
        mask_split(Asked(ratios=(0.01, 0.01)), "valid", rows_of(1, 1), 0)


def test_a_tokenizer_that_does_not_mark_words_is_said() -> None:
    task = Asked(Masking("whole_word"), marks_words=False)
    assert any("does not mark where words start" in line for line in notes(rows_of(20, 14), task))
    assert not any(
        "does not mark" in line for line in notes(rows_of(20, 14), dataclasses.replace(task, marks_words=True))
    )
    assert not any("does not mark" in line for line in notes(rows_of(20, 14), Asked(marks_words=False)))


def test_sums_of_a_step_by_hand() -> None:
    segments = jnp.asarray([[1, 1, 2, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    labels = jnp.asarray([[-1, 7, 9, -1], [-1, -1, -1, -1], [-1, -1, -1, -1]])
    sums = mask_sums({"segment_ids": segments}, labels)
    assert {name: value.tolist() for name, value in sums.items()} == {
        "masked_share": [2, 7],
        "rows_without_target": [1, 2],
    }
    none = mask_sums({"segment_ids": segments * 0}, labels * 0 - 1)
    assert all(value.tolist() == [0, 0] for value in none.values())
