"""Bytes that huggingface_hub counts are shown as jaxfm shows a run's progress."""

import io

import pytest
from rich.console import Console

from jaxfm.observe import downloads
from jaxfm.observe.downloads import shown_downloads


def download(bars: type) -> None:
    """Moves bars as huggingface_hub.snapshot_download does: of files, of bytes received, of bytes written."""
    received = bars(desc="Downloading bytes", total=0, initial=0, unit="B", unit_scale=True)
    written = bars(desc="Reconstructing", total=0, initial=0, unit="B", unit_scale=True)
    with bars(desc="Fetching 2 files", total=2) as files:
        for size in (3_000_000, 5_000_000):
            for bar in (received, written):
                bar.total += size
                bar.refresh()
            received.update(size)
            written.update(size)
            written.set_postfix_str("1MB/s", refresh=False)
            files.update(1)
    received.set_description_str("Download complete")


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, wait: float = 0.0, quiet: bool = False) -> str:
    monkeypatch.setattr(downloads, "PLAIN_SECONDS", wait)
    monkeypatch.setattr(downloads, "REDRAW_SECONDS", wait)
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80, color_system=None, quiet=quiet)
    with shown_downloads("hf:a/b", console=console) as bars:
        download(bars)
    return out.getvalue()


def test_lines_in_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(monkeypatch, terminal=False).splitlines()
    assert lines[0] == "downloading hf:a/b 3.0 of 3.0 MB" and lines[-1] == "downloading hf:a/b 8.0 of 8.0 MB"
    assert shown(monkeypatch, terminal=False, wait=1e9).splitlines() == lines[-1:]
    assert capsys.readouterr() == ("", "")  # tqdm writes nothing by itself


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, terminal=True)
    assert "downloading hf:a/b" in text and "8.0 of 8.0 MB" in text and "\x1b[" in text


def test_nothing_where_quiet_or_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, terminal=True, quiet=True) == ""
    out = io.StringIO()
    with shown_downloads("hf:a/b", console=Console(file=out)) as bars:
        bars(desc="Fetching 2 files", total=2).update(2)
    assert out.getvalue() == ""


def test_what_interrupts_a_download_comes_through() -> None:
    with pytest.raises(KeyboardInterrupt), shown_downloads("hf:a/b", console=Console(file=io.StringIO())):
        raise KeyboardInterrupt
