"""The page in a real browser: each task by clicks and keys, as a person uses it."""

import asyncio
import pathlib
import shutil
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

import uvicorn  # noqa: E402

from jaxfm.programs.model import Model  # noqa: E402
from jaxfm.serving.app import Service, make_app  # noqa: E402
from jaxfm.serving.served import Limits  # noqa: E402
from profiles.serve_pictures import ask  # noqa: E402
from tests import tiny  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in the path")
NAMES = ("ner", "classification", "qa", "masked_lm", "embedding")
TOKEN = "a-token-of-many-letters"


def serving(runs: dict[str, pathlib.Path], token: str = "") -> Iterator[str]:
    """Serves in a thread; yields the address."""
    service = Service({name: Model(run) for name, run in runs.items()}, Limits())
    service.ready = True
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(service, token=token), log_config=None, lifespan="off", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
    thread.start()
    yield f"http://localhost:{bound.getsockname()[1]}/"
    server.should_exit = True
    thread.join(30)
    bound.close()
    service.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return tiny.write_runs(tmp_path_factory.mktemp("page"), NAMES)


@pytest.fixture(scope="module")
def address(runs: dict[str, pathlib.Path]) -> Iterator[str]:
    yield from serving(runs)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    page = browser.new_page()
    page.set_default_timeout(10_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: wrong.append(request.url) if not request.url.startswith((address, "data:", "blob:")) else None,
    )
    page.goto(address)
    page.wait_for_selector("#model option", state="attached")
    yield page
    assert not wrong  # no error of a script, and nothing from elsewhere
    page.close()


def test_entities_and_why(page: Any, runs: dict[str, pathlib.Path]) -> None:
    text = "ada met 😀 boole in hull"  # offsets count characters, not UTF-16 units
    shown = ask(page, "ner", text)
    found = Model(runs["ner"])(text)["entities"]
    assert [mark.inner_text().splitlines()[0].strip() for mark in page.query_selector_all("mark")]
    for entity in found:
        assert entity["text"] in shown and f"{entity['start']}-{entity['end']}" in shown
    page.click("text=why? >> nth=0")
    page.wait_for_selector("#why h2")
    why = page.inner_text("#why")
    assert f"Why {found[0]['type']}?" in why and "Alternatives:" in why
    assert len(page.query_selector_all("#why .word")) == len(text.split())


def test_markup_in_a_text_is_shown_as_text(page: Any) -> None:
    text = "ada <img src=x onerror=alert(1)> <b>hull</b>"
    shown = ask(page, "ner", text)
    assert "<img src=" in shown
    assert page.query_selector("#result img") is None and page.query_selector("#result b") is None


def test_classes_as_bars_and_why(page: Any) -> None:
    shown = ask(page, "classification", "ada met boole")
    assert "LOC" in shown and "PER" in shown and len(page.query_selector_all(".bar")) == 2
    page.click("text=why?")
    page.wait_for_selector("#why .word")


def test_answers_in_their_context(page: Any) -> None:
    context = "ada met boole in hull"
    shown = ask(page, "qa", "who met boole?", context)
    assert "Probability" in shown
    marks = page.query_selector_all("mark.answer")
    assert all(mark.inner_text().split("answer")[0].strip() in context for mark in marks)


def test_masks(page: Any) -> None:
    shown = ask(page, "masked_lm", "ada met [MASK] in hull")
    assert "Mask 1" in shown and len(page.query_selector_all(".bar")) == 5
    assert "Pseudo-perplexity" in ask(page, "masked_lm", "ada met boole")


def test_nearest_texts(page: Any) -> None:
    rows = ask(page, "embedding", "boole", "hull\nboole\nada met hull").splitlines()
    assert rows[1].startswith("boole")


def test_the_keyboard_is_enough(page: Any) -> None:
    page.select_option("#model", "ner")
    page.focus("#text")
    page.keyboard.type("ada met boole")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#result .shown")
    page.keyboard.press("Tab")  # from the text to the button
    assert page.evaluate("document.activeElement.id") == "ask"


def test_an_example_is_asked_at_once_and_a_mistake_is_one_sentence(page: Any) -> None:
    page.select_option("#model", "qa")
    page.select_option("#examples", "0")
    page.wait_for_selector("#result table")
    page.select_option("#model", "embedding")
    page.fill("#text", "boole")
    page.fill("#pair", "")
    page.click("#ask")
    page.wait_for_selector("#status.bad")
    assert "texts" in page.inner_text("#status")


def test_every_field_has_a_name_for_screen_readers(page: Any) -> None:
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, textarea, select')].filter(e => !e.labels.length).map(e => e.id)"
    )
    assert unnamed == []
    assert page.get_attribute("#status", "aria-live") == "polite" and page.get_attribute("html", "lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Any, address: str, scheme: str) -> None:
    """4.5 to 1 at least, between the text and what is behind it (WCAG 2.1, AA)."""
    page = browser.new_page(color_scheme=scheme)
    page.goto(address)
    for ink, paper in (
        ("ink", "paper"),
        ("soft", "paper"),
        ("accent", "paper"),
        ("on-accent", "accent"),
        ("bad", "paper"),
    ):
        colours = page.evaluate(
            "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())",
            [ink, paper],
        )
        one, other = sorted((luminance(colour) for colour in colours), reverse=True)
        assert (one + 0.05) / (other + 0.05) >= 4.5, (ink, paper)
    page.close()


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.1)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_page_asks_for_the_token(browser: Any, runs: dict[str, pathlib.Path]) -> None:
    for address in serving({"ner": runs["ner"]}, TOKEN):
        page = browser.new_page()
        page.set_default_timeout(10_000)
        page.goto(address)
        page.wait_for_selector("#token-field:not([hidden])")
        page.fill("#token", TOKEN)
        page.click("#ask")
        page.wait_for_selector("#model option", state="attached")
        ask(page, "ner", "ada met boole")
        assert TOKEN not in page.inner_text("body")
        page.close()
