"""Looks at a page in headless Chromium: its console, pictures that are missing, and its width."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--enable-logging=stderr",
    "--allow-file-access-from-files",  # so that the frame around a page may look into it
    "--dump-dom",
)
FRAME = """<!DOCTYPE html><meta charset="utf-8"><iframe src="{page}" width="{width}" height="800"
style="border: 0" onload="const root = contentDocument.documentElement;
document.title = JSON.stringify({{width: contentWindow.innerWidth,
  overhang: root.scrollWidth - root.clientWidth,
  pictures: [...contentDocument.images].map(i => [i.getAttribute('src'), i.naturalWidth])}})"
></iframe>"""


@dataclass(frozen=True)
class Seen:
    """What a browser makes of a page.

    `console` is what it complains about; `pictures` those that it shows, `missing` those that it
    cannot (Chromium tells neither console nor stderr of a file that is not there); `overhang` the
    pixels by which the page is wider than the window: above 0 it scrolls sideways.
    """

    console: list[str]
    pictures: list[str]
    missing: list[str]
    overhang: int


def chromium() -> str:
    """The browser's path; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return found


def look_at(page: Path, folder: Path, width: int = 1280) -> Seen:
    """Open a page in a window of that width; `folder` is for the browser's own files.

    The page, which has no scripts of its own, stands in a frame that measures it.
    """
    frame = folder / "frame.html"
    source = html.escape(page.absolute().as_uri())
    frame.write_text(FRAME.format(page=source, width=width), encoding="utf-8")
    done = subprocess.run(
        [chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", frame.absolute().as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr
    found = json.loads(html.unescape(title[1]))
    assert found["width"] == width
    return Seen(
        console=[line for line in done.stderr.splitlines() if "CONSOLE" in line],
        pictures=[source for source, size in found["pictures"] if size > 0],
        missing=[source for source, size in found["pictures"] if size == 0],
        overhang=found["overhang"],
    )
