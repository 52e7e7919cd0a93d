"""How much of a text is masked and scored: what a run says of it, and what it refuses to go on with."""

# B batch, T tokens, V vocabulary

from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.batch import Dataset
from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.data.text.masked_rows import MaskedRows, make_masker, mask_eval_rows
from jaxfm.data.text.masking import Masking
from jaxfm.data.text.spread_rows import SpreadRows
from jaxfm.errors import UserError
from jaxfm.observe.metrics import Sums, weighted

# Rows of the training split that are masked once for the log.
_SAMPLE_ROWS = 1024
# Shares from which a run warns: rows without a target, and masked text as a part of what was asked for.
_MANY_WITHOUT, _FEW_MASKED = 0.05, 0.8
_SHORT_TEXT = 200  # tokens of which by chance none may be masked


class MaskingSettings(Protocol):
    """What decides which tokens are masked."""

    @property
    def vocabulary(self) -> MaskVocabulary:
        """Of the tokens."""
        ...

    @property
    def masking(self) -> Masking:
        """Unit and shares of training."""
        ...

    @property
    def ratios(self) -> tuple[float, ...]:
        """Shares of the tokens that are masked: first and last are those of the first and of the last step."""
        ...

    @property
    def units(self) -> tuple[str, ...]:
        """Units that held-out text is scored on."""
        ...


def mask_split(settings: MaskingSettings, split: str, rows: Dataset, most: int) -> MaskedRows:
    """Returns at most `most` rows of a split (0: all), each once for each of the task's units, with fixed masks.

    Raises UserError where nothing is masked by the run's own unit: there would be no score.
    """
    masker = make_masker(settings.vocabulary, settings.masking, settings.ratios[-1], rows.spec["tokens"].shape[0])
    found = mask_eval_rows(masker, rows, settings.units, most)
    shares = found.shares(settings.masking.unit)
    if not shares.targets and shares.text < _SHORT_TEXT:
        raise UserError(
            f"{split}: none of its {shares.text:,} tokens is masked, so there is nothing to score. It is too short: "
            "name a larger file, hold more out of the training text (config.data.holdout), or go without this split."
        )
    if not shares.targets:
        raise UserError(f"{split}: none of its {shares.text:,} tokens can be masked. {_TAKE_ANOTHER}")
    return found


_TAKE_ANOTHER = (
    "They are unknown tokens, which are never masked: the tokenizer does not know this text. Take another one with "
    "config.model.tokenizer, or train one on the text (python -m jaxfm.tokenizer)."
)


def mask_notes(
    settings: MaskingSettings, train: Dataset, counts_V: np.ndarray, held_out: Mapping[str, MaskedRows]
) -> tuple[str, ...]:
    """Returns lines for the log: how much of the training text is masked, and how much of the other text is scored.

    Args:
      settings: of the masks.
      train: the training rows, of which a sample is masked.
      counts_V: [V] how often each token occurs in them.
      held_out: what is scored.

    Raises:
      UserError: no token of the training text can be masked.
    """
    unit, ratio = settings.masking.unit, settings.ratios[0]
    if not (counts_V * settings.vocabulary.maskable).any():
        raise UserError(f"train: none of its {counts_V.sum():,} tokens can be masked. {_TAKE_ANOTHER}")
    masker = make_masker(settings.vocabulary, settings.masking, ratio, train.spec["tokens"].shape[0])
    shares = mask_eval_rows(masker, train, (unit,), _SAMPLE_ROWS).shares(unit)
    without = shares.rows_without / max(shares.rows, 1)
    notes = [
        f"masks by {unit}, drawn once for {shares.rows:,} training rows: {shares.share:.1%} of the tokens of text; "
        f"{without:.1%} of the rows have no masked token"
    ]
    if unit != "token" and not settings.vocabulary.marks_words:
        notes.append(
            f"NOTE: this tokenizer does not mark where words start: config.task.unit={unit} takes each token for a word"
        )
    if without > _MANY_WITHOUT:
        notes.append(
            f"WARNING: {without:.1%} of the training rows have no masked token at a step, so they teach nothing then: "
            "they are short (config.data.packed=True fills rows) or mostly unknown tokens, or config.task.ratio is low."
        )
    if shares.share < _FEW_MASKED * ratio:
        notes.append(
            f"WARNING: {shares.share:.1%} of the tokens of text are masked where config.task.ratio is {ratio:.1%}: the "
            "others are mostly unknown tokens, which are never masked. The tokenizer does not fit this text."
        )
    return (*notes, *scored_notes(held_out))


def mask_sums(batch: Mapping[str, jax.Array], labels_BT: jax.Array) -> Sums:
    """Returns the metrics "masked_share" (of all tokens but padding) and "rows_without_target" (of the rows)."""
    text_BT, target_BT = batch["segment_ids"] > 0, labels_BT >= 0
    text_B, target_B = text_BT.any(axis=1), target_BT.any(axis=1)
    return {
        "masked_share": weighted(target_BT.sum(dtype=jnp.float32), text_BT.sum(dtype=jnp.float32)),
        "rows_without_target": weighted((text_B & ~target_B).sum(dtype=jnp.float32), text_B.sum(dtype=jnp.float32)),
    }


def scored_notes(held_out: Mapping[str, MaskedRows | SpreadRows]) -> tuple[str, ...]:
    """Returns a line for the log for each split of which not all rows are scored."""
    return tuple(
        f"{split}: {len(rows.index):,} of its {len(rows.rows):,} rows are scored, evenly spread (config.task.eval_rows)"
        for split, rows in held_out.items()
        if len(rows.index) < len(rows.rows)
    )


def row_counts(rows: MaskedRows | SpreadRows) -> dict[str, int]:
    """Returns how many rows a score is of, and how many the split has."""
    return {"rows": len(rows.index), "rows_of_the_split": len(rows.rows)}


def scored_part(rows: MaskedRows | SpreadRows) -> str:
    """Returns words for a table's title where not all rows of a split are scored, else nothing."""
    if len(rows.index) == len(rows.rows):
        return ""
    return f"; {len(rows.index):,} of the split's {len(rows.rows):,} rows, see config.task.eval_rows"
