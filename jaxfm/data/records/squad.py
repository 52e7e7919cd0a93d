"""The nested JSON of SQuAD (Rajpurkar et al. 2016 and 2018): articles, of paragraphs, of questions.

{"version": ..., "data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [{"id", "question", "answers"}]}]}]}
"""

from collections.abc import Mapping
from typing import Any

_OF_QUESTION = ("id", "question", "answers", "is_impossible")


def questions_of(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Returns a flat record a question, with its title and context; None for JSON of another layout.

    What a record lacks, or has of a wrong kind, its reader says.
    """
    articles = value.get("data")
    if (
        not isinstance(articles, list)
        or not articles
        or not all(_has_list(article, "paragraphs") for article in articles)
    ):
        return None
    found = []
    for article in articles:
        title = {"title": article["title"]} if "title" in article else {}
        for paragraph in article["paragraphs"]:
            if not _has_list(paragraph, "qas"):
                return None
            for question in paragraph["qas"]:
                if not isinstance(question, dict):
                    return None
                own = {name: question[name] for name in _OF_QUESTION if name in question}
                found.append({**title, "context": paragraph.get("context"), **own})
    return found


def _has_list(value: Any, name: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(name), list)
