"""What a run of a vector a token takes over from the files of its first weights, and its skipped tokens."""

import string
from typing import TYPE_CHECKING, Any

from jaxfm.config import Config
from jaxfm.core.initial import Initial, TokenLayout
from jaxfm.errors import UserError
from jaxfm.schema import replaced
from jaxfm.tasks.text_groups.config import prompt_or
from jaxfm.tasks.text_groups.encoding import DOCUMENT, QUERY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PUNCTUATION = "punctuation"
_NONE, _AUTO = "none", "auto"
# Khattab and Zaharia 2020, sections 3.2 and 4.1; markers and the length of documents as PyLate has them.
_PROMPTS = {QUERY: "[Q] ", DOCUMENT: "[D] "}
_LENGTHS = {QUERY: 32, DOCUMENT: 180}
_DIMENSION = 128


def with_defaults(config: Config) -> Config:
    """Returns the config with what is usual where it leaves a key open, for weights whose files say nothing."""
    return _filled(config, TokenLayout(lengths=_LENGTHS), _PROMPTS, _DIMENSION)


def taken_over(config: Config, initial: Initial) -> tuple[Config, tuple[str, ...]]:
    """Returns the config with what the first weights' files say where it leaves a key open, and notes.

    Raises UserError where they say what is not computed here.
    """
    sentence, kernel = initial.sentence, initial.params.get("projection/kernel")
    width = _DIMENSION if kernel is None else int(kernel.shape[-1])
    if sentence is None or sentence.tokens is None:
        return _filled(config, TokenLayout(lengths=_LENGTHS), _PROMPTS, width), ()
    if sentence.tokens.unread:
        raise UserError(
            f"config.model.init: the files of {config.model.init!r} (modules.json) make a vector a token by "
            f"{' and '.join(sentence.tokens.unread)}, which is not computed here. Start from its encoder alone: a "
            "directory without modules.json."
        )
    note = f"vectors: as modules.json of {config.model.init} says"
    return _filled(config, sentence.tokens, sentence.prompts, width), (note,)


def _filled(config: Config, layout: TokenLayout, prompts: Any, dimension: int) -> Config:
    task = config.task
    values = {
        "dimension": task.dimension or dimension,
        "query_prompt": prompt_or(task.query_prompt, prompts[QUERY]),
        "document_prompt": prompt_or(task.document_prompt, prompts[DOCUMENT]),
        "query_length": task.query_length or layout.lengths.get(QUERY, _LENGTHS[QUERY]),
        "document_length": task.document_length or layout.lengths.get(DOCUMENT, _LENGTHS[DOCUMENT]),
        "query_expansion": layout.expansion if task.query_expansion == _AUTO else task.query_expansion,
        "skipped_tokens": task.skipped_tokens if task.skipped_tokens != _AUTO else " ".join(layout.skipped) or _NONE,
    }
    return replaced(config, {f"task.{name}": value for name, value in values.items()})


def with_markers(tokenizer: "PreTrainedTokenizerFast", initial: Initial) -> "PreTrainedTokenizerFast":
    """Returns the tokenizer, changed so that each marker of the first weights' prompts is one token.

    PyLate adds its markers as entries that a tokenizer which lowers case cuts again, and puts their number into a text.
    """
    from transformers import AddedToken

    layout = initial.sentence.tokens if initial.sentence else None
    known = tokenizer.get_vocab()
    cut = []
    for marker in layout.markers if layout else ():
        entry = next((each for each in (marker, marker.strip()) if each in known), None)
        if entry is not None and tokenizer.tokenize(entry) != [entry]:
            cut.append(AddedToken(entry, normalized=False, special=True))
    if cut:
        tokenizer.add_tokens(cut, special_tokens=True)
        assert len(tokenizer.get_vocab()) == len(known), "each of them had a number"
    return tokenizer


def skipped_ids(config: Config, tokenizer: "PreTrainedTokenizerFast") -> tuple[tuple[int, ...], str]:
    """Returns the numbers of `task.skipped_tokens`, and a sentence about them for the log ("": none are skipped).

    Raises UserError: a word that is not one token, a special token, a tokenizer whose texts may have no other tokens.
    """
    given = config.task.skipped_tokens
    if given == _NONE:
        return (), ""
    words = list(string.punctuation) if given == PUNCTUATION else list(dict.fromkeys(given.split()))
    known = tokenizer.get_vocab()
    ids = {word: known[word] for word in words if word in known}
    absent = [word for word in words if word not in ids]
    if absent and len(absent) == len(words):
        raise UserError(f"config.task.skipped_tokens: {given!r}: the tokenizer has none of these tokens.")
    if special := [word for word, number in ids.items() if number in tokenizer.all_special_ids]:
        raise UserError(f"config.task.skipped_tokens: {special[0]!r} is a special token, which every text has.")
    if not tokenizer.num_special_tokens_to_add(pair=False):
        raise UserError(
            "config.task.skipped_tokens: the tokenizer adds no special tokens to a text, so that one of nothing but "
            "skipped tokens would have none to compare. Give none."
        )
    more = f"; not tokens: {' '.join(absent)}" if absent and given != PUNCTUATION else ""
    return tuple(ids.values()), f"not compared of documents: {' '.join(ids)}{more}"


def check_expansion(config: Config, tokenizer: "PreTrainedTokenizerFast") -> None:
    """Raises UserError where queries are to be filled up with mask tokens, and the tokenizer has none."""
    if config.task.query_expansion != _NONE and tokenizer.mask_token_id is None:
        raise UserError(
            f"config.task.query_expansion: {config.task.query_expansion!r} fills queries up with mask tokens, but the "
            "tokenizer has none. Give none."
        )
