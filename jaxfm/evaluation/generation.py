"""Scores of written texts against references: BLEU, chrF, ROUGE, exact match, and what copying the source comes to.

The numbers are those of sacrebleu (Post 2018) and rouge-score, which evaluate as the official scripts do: BLEU and chrF
go from 0 to 100, ROUGE and exact match from 0 to 1.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.errors import UserError, install_hint

ROUGES = ("rouge1", "rouge2", "rougeL")
METRICS = ("exact_match", "bleu", "chrf", *ROUGES, "length_ratio")
LEAD = 3
# After a full stop, a question or an exclamation mark and what closes a quotation.
_ENDS_OF_SENTENCES = re.compile(r"(?<=[.!?])[\"')\]]*\s+")


def generation_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns the scores of some texts, by the names of METRICS.

    BLEU and chrF are of the corpus, with the tokenisation "13a" of the former; ROUGE is the mean of F1 over texts, with
    stemming, of several references the best one. ROUGE counts letters and digits of English: text in other scripts has
    none. "exact_match" is the share of texts that are one of their references, spaces at the ends aside; "length_ratio"
    is the number of words over that of the first references.

    Args:
      predictions: what was written.
      references: one or more right texts for each.

    Raises:
      UserError: a package for it is missing.
    """
    assert predictions and len(predictions) == len(references) and all(references)
    sacrebleu, scorer = _libraries()
    streams = _streams(references)
    pairs = list(zip(predictions, references, strict=True))
    rouge = [scorer.score_multi(list(gold), text) for text, gold in pairs]
    words = sum(len(gold[0].split()) for _, gold in pairs)
    return {
        "exact_match": sum(text.strip() in [each.strip() for each in gold] for text, gold in pairs) / len(pairs),
        "bleu": float(sacrebleu.corpus_bleu(list(predictions), streams).score),
        "chrf": float(sacrebleu.corpus_chrf(list(predictions), streams).score),
        **{name: sum(each[name].fmeasure for each in rouge) / len(rouge) for name in ROUGES},
        "length_ratio": sum(len(text.split()) for text in predictions) / max(words, 1),
    }


def baseline_texts(sources: Sequence[str]) -> Mapping[str, list[str]]:
    """Returns what a system writes that copies its source, or the first LEAD sentences of it: "copy", "lead"."""
    return {"copy": list(sources), "lead": [first_sentences(source, LEAD) for source in sources]}


def baseline_scores(sources: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """Returns `generation_scores` of each of `baseline_texts`."""
    return {name: generation_scores(texts, references) for name, texts in baseline_texts(sources).items()}


def first_sentences(text: str, count: int) -> str:
    """Returns the first sentences of a text, which end at . ! or ? and a space; a whole text that has fewer."""
    starts = [match.end() for match in _ENDS_OF_SENTENCES.finditer(text)]
    return text[: starts[count - 1]].rstrip() if len(starts) >= count else text


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Returns references as sacrebleu takes them: the first of all texts, the second ones; None: there is none."""
    most = max(map(len, references))
    return [[gold[place] if place < len(gold) else None for gold in references] for place in range(most)]


def _libraries() -> tuple[Any, Any]:
    try:
        import sacrebleu
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise UserError(
            f"BLEU and ROUGE need the packages sacrebleu and rouge-score ({error}): {install_hint('generation')}."
        ) from None
    # It warns where texts end in " .", as those of tokenised corpora do, once a call.
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(max(logging.getLogger("absl").level, logging.WARNING))
    return sacrebleu, rouge_scorer.RougeScorer(list(ROUGES), use_stemmer=True)
