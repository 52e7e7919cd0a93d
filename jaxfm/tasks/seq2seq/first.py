"""What a run starts from: the encoder with the sight of its way, and a tokenizer, perhaps learned from the pairs."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.encoder_config import FULL, EncoderConfig
from jaxfm.core.encoder_config import PREFIX as SIGHT_OF_PREFIX
from jaxfm.core.initial import Initial
from jaxfm.data.corpora.pretraining import TRAIN_TOKENIZER, cache_folder
from jaxfm.data.corpora.tokenizer_training import KINDS, train_tokenizer
from jaxfm.data.records.text_pairs import TextPair
from jaxfm.data.text.tokenization import check_tokenizer, load_tokenizer
from jaxfm.errors import UserError, did_you_mean
from jaxfm.families.registry import with_sight
from jaxfm.tasks.seq2seq.spec import DIFFUSION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def sighted(encoder: EncoderConfig, way: str) -> EncoderConfig:
    """Returns the encoder with the sight of a way, whatever its weights saw before."""
    return with_sight(encoder, FULL if way == DIFFUSION else SIGHT_OF_PREFIX)


def open_writer(
    config: Config, initial: Initial, train: Sequence[TextPair]
) -> tuple[EncoderConfig, "PreTrainedTokenizerFast", tuple[str, ...]]:
    """Returns the encoder, its tokenizer, and notes.

    Raises UserError for an encoder from scratch without a tokenizer, and for a tokenizer that is not of the encoder or
    lacks the separator, the opening, the padding or (for diffusion) the mask token.
    """
    way, encoder, notes = config.task.way, initial.encoder, initial.notes
    if initial.tokenizer is not None:
        folder, tokenizer = initial.tokenizer, load_tokenizer(initial.tokenizer)
    else:
        folder = _learned(config, train)
        tokenizer = load_tokenizer(folder)
        notes = (*notes, f"tokenizer: learned from train ({config.model.tokenizer}), {len(tokenizer):,} entries")
    if not initial.params:
        encoder = dataclasses.replace(encoder, vocab_size=len(tokenizer))
        if encoder.token_dropout_id >= 0 and tokenizer.mask_token_id is not None:
            encoder = dataclasses.replace(encoder, token_dropout_id=tokenizer.mask_token_id)
    check_tokenizer(tokenizer, encoder, folder, needs_mask=way == DIFFUSION)
    head = any(name.startswith("decoder/") for name in initial.params) or (
        encoder.tied_decoder and any(name.startswith("transform/") for name in initial.params)
    )
    head_note = "vocabulary head: loaded with the weights" if head else "vocabulary head: new"
    return sighted(encoder, way), tokenizer, (*notes, *((head_note,) if initial.params else ()))


def _learned(config: Config, train: Sequence[TextPair]) -> Path:
    """Learns a tokenizer once for each training data, kind and size; returns its directory."""
    uri = config.model.tokenizer
    kind, _, size = uri.removeprefix(TRAIN_TOKENIZER).partition("/")
    if not uri.startswith(TRAIN_TOKENIZER) or not size.isdigit():
        raise UserError(
            f"config.model.tokenizer: is {uri!r}; an encoder from scratch needs dir:PATH (or package:, hf:) of a "
            "tokenizer, or train:wordpiece/SIZE or train:bpe/SIZE to learn one from the training pairs."
        )
    if kind not in KINDS:
        raise UserError(f"config.model.tokenizer: {uri!r}: {did_you_mean(kind, KINDS)}")
    digest = hashlib.sha256(f"pairs {kind} {size}".encode())
    for text in _Texts(train, config.task.controls):
        digest.update(f"{len(text)} ".encode())
        digest.update(text.encode())
    output = cache_folder(config.data) / "tokenizers" / f"{kind}-{size}-{digest.hexdigest()[:16]}"
    # The processes of a run ask for the same at once: one learns, the others find it.
    with files.alone_with(output):
        if not output.is_dir():
            texts = _Texts(train, config.task.controls)
            train_tokenizer(texts, kind=kind, vocab_size=int(size), lowercase=False, output=output)
    return output


class _Texts:
    """Sources and targets, any number of times; words of controls belong to them."""

    def __init__(self, pairs: Sequence[TextPair], controls: Sequence[str]):
        """Reads pairs."""
        self._pairs, self._controls = pairs, " ".join(f"{name}: |" for name in controls)

    def __iter__(self) -> Iterator[str]:
        if self._controls:
            yield self._controls
        for pair in self._pairs:
            yield pair.source
            yield pair.targets[0]
            yield from pair.controls.values()
