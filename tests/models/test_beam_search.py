"""Beam search: as wide as can be it finds the best of all texts, and as narrow as transformers it finds theirs."""

# S segments, R texts a segment, V vocabulary

import dataclasses
import functools
import pathlib
import tempfile
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import pytest

from jaxfm.decoding_config import Decoding
from jaxfm.hub.weights import write_tensors
from tests import tiny
from tests.models import decoders
from tests.models.decoders import END
from tests.models.test_generation import program, raised_end, texts, written

LETTERS = (20, 21, 22)
ALL_BUT_LETTERS = tuple(set(range(96)) - {END, *LETTERS})


def best_of_all(whole: decoders.Uncached, prompt: tuple[int, ...], settings: Decoding) -> tuple[tuple[int, ...], float]:
    """Returns the best of all texts and its score."""
    found: dict[tuple[int, ...], float] = {}
    last = settings.max_tokens
    sums = {(): 0.0}
    for number in range(last):
        longer: dict[tuple[int, ...], float] = {}
        for text, total in sums.items():
            log_probs = whole.log_probs([*prompt, *text])
            if number >= settings.min_tokens:
                found[(*text, END)] = (total + log_probs[END]) / (number + 1) ** settings.length_penalty
            size = settings.no_repeat_ngram
            for token in LETTERS:
                grams = list(zip(*((*text, token)[i:] for i in range(size)), strict=False)) if size else []
                if len(set(grams)) == len(grams):
                    longer[(*text, token)] = total + log_probs[token]
        sums = longer
    found |= {text: total / last**settings.length_penalty for text, total in sums.items()}
    best = max(found, key=lambda text: found[text])
    return tuple(token for token in best if token != END), found[best]


@pytest.mark.parametrize("changes", [{}, {"min_tokens": 2}, {"no_repeat_ngram": 2}], ids=str)
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
def test_wide_enough_it_finds_the_best_of_all_texts(penalty: float, changes: dict[str, Any]) -> None:
    settings = Decoding(method="beam", beams=81, max_tokens=4, length_penalty=penalty, **changes)
    found = written(decoders.MODERN, settings, decoders.packed(), forbidden=ALL_BUT_LETTERS)
    whole, ours = decoders.Uncached(decoders.MODERN), texts(found)
    for row, prompts in enumerate(decoders.ROWS):
        for segment, prompt in enumerate(prompts):
            text, score = best_of_all(whole, decoders.prompts()[prompt], settings)
            assert ours[row][segment] == text
            np.testing.assert_allclose(found.scores[row, segment], score, rtol=1e-4)
    assert found.lengths[0, 2] == 0 and found.scores[0, 2] == 0


@functools.cache
def their_model(by: float = 0.0) -> Any:
    """Returns transformers' BertLMHeadModel with the weights of decoders.BERT, the bias of the end token raised."""
    torch = pytest.importorskip("torch", reason="transformers' models need it")
    transformers = pytest.importorskip("transformers")
    import safetensors.torch

    config = decoders.BERT
    theirs = transformers.BertConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=40, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=config.norm_eps,
        is_decoder=True, pad_token_id=0, eos_token_id=END, bos_token_id=None,
    )  # fmt: skip
    model = transformers.BertLMHeadModel(theirs)
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(raised_end(config, by), sep="/")
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "model.safetensors"
        write_tensors(path, config, "vocabulary", flat)
        tensors = safetensors.torch.load_file(path)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and all("pooler" in name or "decoder" in name for name in missing), (missing, unexpected)
    model.tie_weights()
    assert torch.equal(model.cls.predictions.decoder.weight, model.bert.embeddings.word_embeddings.weight)
    return model.eval()


def theirs(model: Any, prompt: tuple[int, ...], settings: Decoding, forbidden: tuple[int, ...]) -> tuple[Any, float]:
    """Returns transformers' text without its end, and of beams its score."""
    import torch

    beams = {"early_stopping": settings.stop == "first" or "never", "length_penalty": settings.length_penalty}
    with torch.no_grad():
        found = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
            num_beams=settings.width, max_new_tokens=settings.max_tokens, suppress_tokens=list(forbidden) or None,
            min_new_tokens=settings.min_tokens or None, no_repeat_ngram_size=settings.no_repeat_ngram,
            return_dict_in_generate=True, output_scores=True, eos_token_id=END, pad_token_id=0,
            **(beams if settings.method == "beam" else {}),
        )  # fmt: skip
    new = found.sequences[0, len(prompt) :].tolist()
    text = tuple(new[: new.index(END)] if END in new else new)
    return text, float(found.sequences_scores[0]) if settings.method == "beam" else 0.0


# A prompt's tokens are never written: transformers' rule of n-grams looks at prompts too (docs/generation.md).
PROMPTS = tuple(token for prompt in decoders.prompts() for token in prompt)
BESIDE = {
    "greedy": (Decoding(max_tokens=12), 2.5),
    "greedy, rules": (Decoding(max_tokens=16, min_tokens=5, no_repeat_ngram=2), 2.0),
    "beam": (Decoding(method="beam", max_tokens=12), 2.5),
    "beam, sums": (Decoding(method="beam", max_tokens=12, length_penalty=0.0), 1.5),
    "beam, long": (Decoding(method="beam", max_tokens=14, length_penalty=1.2, beams=3), 4.0),
    "beam, short": (Decoding(method="beam", max_tokens=10, length_penalty=-0.7, beams=5), 1.5),
    "beam, first": (Decoding(method="beam", max_tokens=12, beams=3, stop="first"), 2.0),
    "beam, first, sums": (Decoding(method="beam", max_tokens=12, beams=2, stop="first", length_penalty=0.0), 2.0),
    "beam, rules": (Decoding(method="beam", max_tokens=16, min_tokens=4, no_repeat_ngram=2, beams=6), 2.0),
    "beam, no token twice": (Decoding(method="beam", max_tokens=9, no_repeat_ngram=1, beams=2), 1.5),
}


@pytest.mark.parametrize("name", BESIDE)
def test_the_texts_and_scores_of_transformers(name: str) -> None:
    settings, by = BESIDE[name]
    forbidden = tuple(sorted(set(PROMPTS) | {0}))
    run = program(decoders.BERT, settings, 3, forbidden=forbidden)
    found = jax.tree.map(np.asarray, run(raised_end(decoders.BERT, by), decoders.packed()))
    ours, lengths = texts(found), set()
    for row, prompts in enumerate(decoders.ROWS):
        for segment, prompt in enumerate(prompts):
            text, score = theirs(their_model(by), decoders.prompts()[prompt], settings, forbidden)
            assert ours[row][segment] == text
            if settings.method == "beam":
                np.testing.assert_allclose(found.scores[row, segment], score, rtol=2e-5)
            lengths.add(len(text))
    assert len(lengths) > 2, "texts hardly differ, so that little is compared"


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_a_decoder_with_local_windows_writes_what_it_writes_in_transformers(
    method: str, tmp_path: pathlib.Path
) -> None:
    pytest.importorskip("torch", reason="transformers' models need it")
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(decoders.MODERN, family="modernbert-decoder", initializer_range=0.3)
    tiny.write_masked_lm_weights(tmp_path, config, seed=0)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(model).__name__ == "ModernBertDecoderForCausalLM"
    settings = Decoding(method=method, max_tokens=10, min_tokens=4, beams=3)
    forbidden = tuple(sorted(set(PROMPTS) | {0}))
    found = written(config, settings, decoders.packed(), forbidden=forbidden)
    for row, prompts in enumerate(decoders.ROWS):
        for segment, prompt in enumerate(prompts):
            text, score = theirs(model, decoders.prompts()[prompt], settings, forbidden)
            assert texts(found)[row][segment] == text
            if method == "beam":
                np.testing.assert_allclose(found.scores[row, segment], score, rtol=2e-5)
