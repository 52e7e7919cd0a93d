"""Adds to the site what mkdocs lacks: pages from outside docs/, the notebook as a page, links into the source code.

Pages are written for readers of the repository, with links between its files. On the site a link to a file that is a
page there leads to that page. A link to any other file leads to the repository if mkdocs.yml has its `repo_url`;
otherwise its text stays without a link.
"""

import json
import pathlib
import posixpath
import re
import urllib.parse
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Files of the repository that are pages of the site -> their path there. Those in docs/ keep their own.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "launch/README.md": "launch.md",
    "profiles/README.md": "measurements.md",
    "profiles/NOTES.md": "notes.md",
    "docs/quickstart.ipynb": "quickstart.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(```.*?```|``[^`]*``|`[^`\n]*`)", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside docs/ and what they show."""
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
    parts = _CODE.split(markdown)  # parts with an odd number are code
    return "".join(
        part if number % 2 else _LINK.sub(lambda found: _relinked(found, source, page, config), part)
        for number, part in enumerate(parts)
    )


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


def _relinked(found: re.Match[str], source: str, page: Page, config: MkDocsConfig) -> str:
    image, text, link = found.groups()
    target = urllib.parse.urlsplit(link)
    if target.scheme or target.netloc or not target.path:
        return found[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target.path))
    if path in PAGES:
        there = PAGES[path]
    elif image and path.startswith("profiles/results/"):
        there = path.removeprefix("profiles/")
    elif path.startswith("docs/"):
        there = path.removeprefix("docs/")
    elif config.repo_url:
        return f"{image}[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})"
    else:
        return text
    here = posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or ".")
    return f"{image}[{text}]({here}{'#' + target.fragment if target.fragment else ''})"
