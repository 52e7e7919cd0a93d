"""Adds to the site what mkdocs lacks: pages from outside docs/, the notebook as a page, links into the source code.

Pages are written for readers of the repository, with links between its files. On the site a link to a file that is a
page there leads to that page. A link to any other file leads to the repository if mkdocs.yml has its `repo_url`;
otherwise its text stays without a link.
"""

from __future__ import annotations

import json
import pathlib
import posixpath
import re
import urllib.parse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the tests of the links read this module without mkdocs
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Files of the repository that are pages of the site -> their path there. Those in docs/ keep their own.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "launch/README.md": "launch.md",
    "profiles/README.md": "measurements.md",
    "profiles/NOTES.md": "notes.md",
    "docs/quickstart.ipynb": "quickstart.md",
}
# A piece of code, which is left alone, or a link; the text of a link may have code in it.
_CODE_OR_LINK = re.compile(r"```.*?```|``[^`]*``|`[^`\n]*`|(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside docs/ and what they show."""
    from mkdocs.structure.files import File

    for source, target in PAGES.items():
        path = ROOT / source
        content = notebook_page(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
        if (old := files.get_file_from_path(posixpath.basename(source))) and source.startswith("docs/"):
            files.remove(old)
        files.append(File.generated(config, target, content=content))
    for path in sorted((ROOT / "profiles" / "results").glob("*.png")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns a page's links between files of the repository into links of the site."""
    source = {target: source for source, target in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return relinked(markdown, source, page.file.src_uri, config.repo_url or "")


def relinked(markdown: str, source: str, target: str, repository: str) -> str:
    """Returns the text of a page with its links between files of the repository as links of the site.

    Args:
      markdown: text of the page.
      source: its file, relative to the repository's root.
      target: its path on the site.
      repository: address of the repository; empty: links to files that are not on the site become plain text.
    """
    return _CODE_OR_LINK.sub(lambda found: _link(found, source, target, repository), markdown)


def notebook_page(path: pathlib.Path) -> str:
    """Returns a notebook as Markdown: its texts, its code, and what the code printed."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", ()):
            if printed := "".join(_printed(output)):
                parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _printed(output: dict[str, Any]) -> list[str]:
    return output.get("text") or output.get("data", {}).get("text/plain", [])


def _link(found: re.Match[str], source: str, target: str, repository: str) -> str:
    image, text, address = found.groups()
    if address is None:  # code
        return found[0]
    link = urllib.parse.urlsplit(address)
    if link.scheme or link.netloc or not link.path:
        return found[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link.path))
    if path in PAGES:
        linked = PAGES[path]
    elif image and path.startswith("profiles/results/"):
        linked = path.removeprefix("profiles/")
    elif path.startswith("docs/") and not path.endswith(".py"):  # mkdocs.yml leaves programs out
        linked = path.removeprefix("docs/")
    elif repository:
        return f"{image}[{text}]({repository.rstrip('/')}/blob/main/{path})"
    else:
        return text
    relative = posixpath.relpath(linked, posixpath.dirname(target) or ".")
    return f"{image}[{text}]({relative}{'#' + link.fragment if link.fragment else ''})"
