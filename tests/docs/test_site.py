"""The site of docs/: every page is in its menu; it is built without warnings and loads nothing from elsewhere."""

import importlib.util
import pathlib
import posixpath
import re
import subprocess
import sys
import types
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from tests.docs.pages import ROOT, links, pages, text

# What a browser loads by itself; a link that a reader may follow is none.
LOADED = {"audio", "embed", "iframe", "img", "input", "object", "script", "source", "track", "video"}


def menu(entries: list[Any]) -> Iterator[str]:
    """Yields the pages of a menu as mkdocs.yml has it."""
    for entry in entries:
        for value in entry.values():
            yield from menu(value) if isinstance(value, list) else (value,)


def site_hooks() -> types.ModuleType:
    """The module docs/site_hooks.py, which mkdocs runs by its path."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = site_hooks()


def test_the_menu_has_every_page_once() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    found = list(menu(config["nav"]))
    own = {page.removeprefix("docs/") for page in pages() if page.startswith("docs/")}
    assert sorted(found) == sorted(own | set(HOOKS.PAGES.values()))
    assert all((ROOT / source).is_file() for source in HOOKS.PAGES)


def test_links_lead_to_pages_and_files_of_the_site() -> None:
    own = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*") if path.suffix != ".py"}
    site = own - {"quickstart.ipynb"} | set(HOOKS.PAGES.values())
    site |= {f"results/{path.name}" for path in (ROOT / "profiles" / "results").glob("*.png")}
    sources = {**{f"docs/{name}": name for name in own if name.endswith(".md")}, **HOOKS.PAGES}
    checked = 0
    for source, target in sources.items():
        path = ROOT / source
        content = HOOKS.notebook_page(path) if path.suffix == ".ipynb" else text(source)
        for link in links(target, HOOKS.relinked(content, source, target, "")):
            address = urllib.parse.urlsplit(link.target)
            if not address.scheme and address.path:
                linked = posixpath.normpath(posixpath.join(posixpath.dirname(target), address.path))
                assert linked in site, f"{source}: {link.target}"
                checked += 1
    assert checked > 100


def test_links_to_files_that_are_not_on_the_site() -> None:
    content = "[a `b`](../jaxfm/config.py), [c](examples/d.py), `[e](../f.py)`, [g](ner.md#h), [i](https://j.example)"
    plain = "a `b`, c, `[e](../f.py)`, [g](../ner.md#h), [i](https://j.example)"
    assert HOOKS.relinked(content, "docs/k.md", "howto/k.md", "") == plain
    linked = HOOKS.relinked(content, "docs/k.md", "k.md", "https://l.example/m/")
    assert linked.startswith(
        "[a `b`](https://l.example/m/blob/main/jaxfm/config.py), [c](https://l.example/m/blob/main/"
    )


class Loaded(HTMLParser):
    """Collects the addresses of what a page loads."""

    def __init__(self) -> None:
        """Starts without any."""
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Takes the address of an element that is loaded."""
        values = dict(attrs)
        relation = values.get("rel") or ""
        if tag in LOADED:
            self.found += [values.get("src") or "", values.get("data") or ""]
        elif tag == "link" and not re.search(r"canonical|next|prev|alternate", relation):
            self.found.append(values.get("href") or "")


def from_elsewhere(site: pathlib.Path) -> list[str]:
    """Returns what the pages and style sheets of a site load from other places, each with its file."""
    found = []
    for path in site.rglob("*.html"):
        parser = Loaded()
        parser.feed(path.read_text(encoding="utf-8"))
        found += [f"{path.name}: {address}" for address in parser.found if re.match(r"(https?:)?//", address)]
    for path in site.rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)", path.read_text(encoding="utf-8"))
        found += [f"{path.name}: {address}" for address in addresses]
    return found


def test_what_is_loaded_from_elsewhere_is_found(tmp_path: pathlib.Path) -> None:
    page = (
        '<link rel="stylesheet" href="https://a.example/b.css"><link rel="canonical" href="https://c.example/">'
        '<script src="//d.example/e.js"></script><img src="images/f.png"><a href="https://g.example">g</a>'
    )
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "h.css").write_text("@import 'https://i.example/j.css'; a { background: url(k.png) }")
    assert from_elsewhere(tmp_path) == [
        *("index.html: https://a.example/b.css", "index.html: //d.example/e.js", "h.css: https://i.example/j.css")
    ]


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("material", reason="needs the extra docs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={tmp_path}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "tutorial.html", "configuration.html", "changelog.html", "quickstart.html"} <= built
    assert not from_elsewhere(tmp_path)
