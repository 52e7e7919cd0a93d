"""Pictures of the page that jaxfm.serve has, for the documents: asked as a person asks, in a Chromium without a window.

  python -m profiles.serve_pictures --ner=runs/ner --embedding=runs/embedding --output=docs/images

serve_page.png: the entities of a sentence, and why one of them; serve_page_dark.png: the nearest texts, in dark
colours. Needs the package playwright and a Chromium in the path.
"""

import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from jaxfm.errors import UserError
from profiles import command_line
from profiles.serve_load import wait_until_ready

SENTENCE = "Ada Lovelace met Charles Babbage in London, long before IBM was founded in New York."
QUESTION = "How do I change my password?"
ANSWERS = (
    "Open the settings to set another password.\nOur shop is open from nine to five.\n"
    "A parcel takes three days.\nYou can log in again with the new word."
)
_WIDTH = 900


def ask(page: Any, model: str, text: str, pair: str = "") -> str:
    """Asks a model as a person does; returns the text of its answer."""
    page.select_option("#model", model)
    page.fill("#text", text)
    if pair:
        page.fill("#pair", pair)
    page.click("#ask")
    page.wait_for_selector("#status:has-text('answered')")
    return page.inner_text("#result")


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--ner", type=pathlib.Path, required=True, help="a run of NER")
    parser.add_argument("--embedding", type=pathlib.Path, required=True, help="a run that gives vectors")
    parser.add_argument("--port", type=int, default=8290)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a folder")
    arguments = command_line.parse_own(parser, argv)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    for run in (arguments.ner, arguments.embedding):
        if not run.is_dir():
            raise UserError(f"{run}: no such run directory.")
    if chromium is None:
        raise UserError("no Chromium in the path.")
    from playwright.sync_api import sync_playwright

    runs = (f"--workdir=ner={arguments.ner}", f"--workdir=search={arguments.embedding}")
    process = subprocess.Popen([sys.executable, "-m", "jaxfm.serve", *runs, f"--port={arguments.port}"])
    try:
        wait_until_ready(process, arguments.port, "jaxfm.serve")
        with sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for scheme, name in (("light", "serve_page.png"), ("dark", "serve_page_dark.png")):
                page = browser.new_page(
                    viewport={"width": _WIDTH, "height": 700}, device_scale_factor=2, color_scheme=scheme
                )
                page.goto(f"http://localhost:{arguments.port}/")
                page.wait_for_selector("#model option", state="attached")
                if scheme == "light":
                    ask(page, "ner", SENTENCE)
                    page.click("text=why? >> nth=0")
                    page.wait_for_selector("#why table")
                else:
                    ask(page, "search", QUESTION, ANSWERS)
                page.evaluate("document.activeElement.blur()")
                page.screenshot(path=str(arguments.output / name), full_page=True)
                print(f"written: {arguments.output / name}")
            browser.close()
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    command_line.run(main)
