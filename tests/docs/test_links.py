"""Every relative link of the Markdown pages leads to a file, and its anchor to a heading, on the site and elsewhere."""

import re
import urllib.parse
from collections.abc import Iterator

import pytest

from tests.docs.pages import ROOT, headings, links, pages, text


def repository_anchors(content: str) -> set[str]:
    """The anchors that code hosts make of a page's headings: a space is a dash, a repeated heading is numbered."""
    found: list[str] = []
    for heading in headings(content):
        plain = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        count = sum(re.fullmatch(rf"{re.escape(plain)}(-\d+)?", other) is not None for other in found)
        found.append(f"{plain}-{count}" if count else plain)
    return set(found)


def site_anchors(content: str) -> set[str]:
    """The anchors that the site makes of them (Python-Markdown's toc): neighbouring dashes become one."""
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings(content)}


def broken(page: str, content: str) -> Iterator[str]:
    """Yields a message for each link of a page that leads nowhere."""
    for link in links(page, content):
        target = urllib.parse.urlsplit(link.target)
        if target.scheme or target.netloc:
            continue
        where = f"{page}:{link.line}: {link.target}"
        path = (ROOT / page).parent / urllib.parse.unquote(target.path) if target.path else ROOT / page
        if not path.resolve().is_relative_to(ROOT):
            yield f"{where} leaves the repository"
        elif target.path and not path.exists():
            yield f"{where} does not exist"
        elif target.fragment:
            there = content if not target.path else path.read_text(encoding="utf-8") if path.suffix == ".md" else ""
            if target.fragment not in repository_anchors(there) & site_anchors(there):
                yield f"{where} has no heading of that anchor"


def test_every_link_leads_somewhere() -> None:
    checked = pages()
    assert {"README.md", "docs/index.md", "docs/configuration.md", "launch/README.md"} <= set(checked)
    found = [message for page in checked for message in broken(page, text(page))]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[a](absent.md)", "absent.md does not exist"),
        ("![a](images/absent.png)", "absent.png does not exist"),
        ("| a |\n|---|\n| [a](absent.md) |", "absent.md does not exist"),
        ("[a](#absent)\n\n# Present", "#absent has no heading"),
        ("[a](architecture.md#absent)", "#absent has no heading"),
        ("[a](../../elsewhere.md)", "leaves the repository"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(content: str, message: str) -> None:
    (found,) = broken("docs/made_up.md", content)
    assert found.startswith("docs/made_up.md:") and message in found


def test_anchors_that_only_one_of_the_two_makes_do_not_count() -> None:
    content = "[a](#a---b)\n\n[b](#c-d)\n\n# A - B\n\n## `C` D\n\n## C D"
    assert repository_anchors(content) == {"a---b", "c-d", "c-d-1"}
    assert [message.split(": ")[1] for message in broken("docs/made_up.md", content)] == [
        "#a---b has no heading of that anchor"
    ]


def test_links_in_code_and_to_other_sites_are_left_alone() -> None:
    content = "`[a](absent.md)`\n\n    [a](absent.md)\n\n[b](https://example.org/absent.md)"
    assert list(broken("docs/made_up.md", content)) == []
