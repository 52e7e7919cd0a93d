"""A tokenizer without the entries that no text of ours uses: the same pieces of these texts, and of any text some.

Why the pieces of a text whose own pieces are all kept stay the same:

- WordPiece and words take the longest piece that there is: it is kept, and a longer one was never there.
- BPE applies the merge of the lowest rank, again and again. Of each piece that is kept all merges that make it, and the
  parts of these, are kept as well, so that at every step the same merge is the first that applies.
- Unigram takes the pieces whose sum of scores is the largest. Fewer pieces only leave fewer other ways to cut a text.
  What an unknown character costs goes by the smallest score, so that a piece of that score is kept.

Single characters and bytes are kept, with every mark of their place in a word ("a", "##a", "a</w>"): a text of known
characters has pieces, if perhaps more of them.
"""

import json
import pathlib
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.data.text.tokenization import VOCABULARY_FILES, load_tokenizer
from jaxfm.errors import UserError

TOKENIZER_FILE = "tokenizer.json"
_SETTINGS_FILE, _ADDED_FILE = "tokenizer_config.json", "added_tokens.json"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SPACE = "▁"  # of SentencePiece, before a word
MODELS = ("WordPiece", "BPE", "Unigram", "WordLevel")


def cut_tokenizer(directory: pathlib.Path, used: Collection[int], folder: pathlib.Path) -> np.ndarray:
    """Writes a tokenizer with the used entries and those that they need.

    Args:
      directory: of a tokenizer.
      used: numbers of the entries that texts have.
      folder: where to write; it is made.

    Returns:
      int32 [new entries], the number that each of them had. Their order stays.

    Raises:
      UserError: a tokenizer of another kind, or one whose files leave something of it unsaid.
    """
    tokenizer = load_tokenizer(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise _refusal(directory, f"it has no {TOKENIZER_FILE}")
    state = files.read_json(path)
    kept = kept_entries(state, used, str(directory))
    number_of = {int(old): new for new, old in enumerate(kept)}
    files.write_text(path, json.dumps(_renumbered(state, number_of, str(directory)), ensure_ascii=False))
    for name in VOCABULARY_FILES:
        if name != TOKENIZER_FILE:  # tokenizer.json says all, and these would say otherwise
            (folder / name).unlink(missing_ok=True)
    for name in ("merges.txt", _ADDED_FILE):
        (folder / name).unlink(missing_ok=True)
    settings = files.read_object(folder / _SETTINGS_FILE)
    if isinstance(added := settings.get("added_tokens_decoder"), dict):
        settings["added_tokens_decoder"] = {str(number_of[int(number)]): each for number, each in added.items()}
    files.write_json(folder / _SETTINGS_FILE, settings)
    before, after = tokenizer.get_vocab(), load_tokenizer(folder).get_vocab()
    if after != {piece: number_of[number] for piece, number in before.items() if number in number_of}:
        shutil.rmtree(folder)
        raise _refusal(directory, "what is written of it does not open as the same tokenizer with fewer entries")
    return kept


def kept_entries(state: Mapping[str, Any], used: Collection[int], where: str) -> np.ndarray:
    """Returns the numbers of the entries that a cut tokenizer keeps, ascending.

    Args:
      state: tokenizer.json.
      used: numbers of the entries that texts have.
      where: whose it is, for messages.

    Raises:
      UserError: a tokenizer of another kind.
    """
    model = state["model"]
    vocabulary = _vocabulary(model, where)
    kept = {int(number) for number in used}
    kept |= {each["id"] for each in state.get("added_tokens", ())}
    marks = [mark for mark in (model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")) if mark]
    named = {model.get("unk_token")}
    kept |= {number for piece, number in vocabulary.items() if piece in named or _is_single(piece, marks)}
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        kept |= {int(np.argmin(scores)), *([] if model.get("unk_id") is None else [model["unk_id"]])}
    if model["type"] == "BPE":
        kept |= _merged_parts(model, vocabulary, kept)
    return np.array(sorted(kept), np.int32)


def _vocabulary(model: Mapping[str, Any], where: str) -> dict[str, int]:
    """Returns piece -> number of a model of tokenizer.json."""
    kind = model.get("type")
    if kind not in MODELS:
        raise UserError(
            f"{where}: a tokenizer of the kind {kind!r} cannot be cut; those that can be are {', '.join(MODELS)}."
        )
    if kind == "Unigram":
        return {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _is_single(piece: str, marks: Sequence[str]) -> bool:
    """Whether a piece is a character or a byte, with or without marks of its place in a word."""
    bare = piece
    for mark in marks:
        bare = bare.removeprefix(mark).removesuffix(mark)
    bare = bare.removeprefix(_SPACE) if len(bare) > 1 else bare
    return len(bare) <= 1 or _BYTE.fullmatch(piece) is not None


def _merged_parts(model: Mapping[str, Any], vocabulary: Mapping[str, int], kept: Collection[int]) -> set[int]:
    """Returns the numbers of all pieces from which merges make those that are kept, these included."""
    prefix = model.get("continuing_subword_prefix") or ""
    made_of: dict[str, list[tuple[str, str]]] = {}
    for left, right in _merges(model):
        made_of.setdefault(_product(left, right, prefix), []).append((left, right))
    pieces = {number: piece for piece, number in vocabulary.items()}
    waiting, found = [pieces[number] for number in kept if number in pieces], set(kept)
    while waiting:
        for pair in made_of.get(waiting.pop(), ()):
            new = [piece for piece in pair if vocabulary[piece] not in found]
            found |= {vocabulary[piece] for piece in new}
            waiting += new
    return found


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the merges in their order; in older files each is one string."""
    pairs = [each.split(" ") if isinstance(each, str) else each for each in model.get("merges", ())]
    return [(left, right) for left, right in pairs]


def _product(left: str, right: str, prefix: str) -> str:
    return left + (right.removeprefix(prefix) if prefix else right)


def _renumbered(state: Mapping[str, Any], number_of: Mapping[int, int], where: str) -> dict[str, Any]:
    """Returns tokenizer.json with the entries that have a new number, by these numbers."""
    model = dict(state["model"])
    if model["type"] == "Unigram":
        vocabulary = _vocabulary(model, where)
        model["vocab"] = [each for number, each in enumerate(model["vocab"]) if number in number_of]
        if model.get("unk_id") is not None:
            model["unk_id"] = number_of[model["unk_id"]]
    else:
        vocabulary = _vocabulary(model, where)
        model["vocab"] = {piece: number_of[number] for piece, number in vocabulary.items() if number in number_of}
    if model["type"] == "BPE":
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            [left, right] for left, right in _merges(model) if _product(left, right, prefix) in model["vocab"]
        ]
    added = [{**each, "id": number_of[each["id"]]} for each in state.get("added_tokens", ())]
    changed = {**state, "model": model, "added_tokens": added, "truncation": None, "padding": None}
    if state.get("post_processor") is not None:
        changed["post_processor"] = _processor(state["post_processor"], number_of, where)
    return changed


def _processor(state: Mapping[str, Any], number_of: Mapping[int, int], where: str) -> dict[str, Any]:
    """Returns a post-processor, which adds special tokens by their numbers, with the new ones."""
    kind = state["type"]
    if kind == "Sequence":
        return {**state, "processors": [_processor(each, number_of, where) for each in state["processors"]]}
    if kind == "TemplateProcessing":
        tokens = {
            name: {**each, "ids": [number_of[number] for number in each["ids"]]}
            for name, each in state["special_tokens"].items()
        }
        return {**state, "special_tokens": tokens}
    if kind in ("BertProcessing", "RobertaProcessing"):
        return {**state, **{name: [state[name][0], number_of[state[name][1]]] for name in ("sep", "cls")}}
    if kind == "ByteLevel":
        return dict(state)
    raise _refusal(pathlib.Path(where), f"its post-processor {kind!r} is not known")


def _refusal(directory: pathlib.Path, reason: str) -> UserError:
    return UserError(f"{directory}: the tokenizer cannot be cut: {reason}. Leave out --vocabulary.")
