"""The page of a clip in a real browser: scrubbed, switched, checked for access; and the film."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")
import toys
from browser import chromium
from clips import number_of, numbered, write_clip

from whyfake import explain_video
from whyfake.explainers import Lime, Nes, Rise
from whyfake.media.write import ClipWriter
from whyfake.settings import Settings

pytestmark = pytest.mark.browser
webdriver = pytest.importorskip("selenium.webdriver")

FAST = Settings(nes=Nes(pairs=20), lime=Lime(samples=100), rise=Rise(masks=60), regions="grid:8")
RATE = Fraction(30_000, 1001)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 12 face crops at 29.97 a second, two methods; its report.html.

    Face 1 is the whole frame, called fake, with landmarks; face 2, from frame 6 on, is a corner of
    it that is called real, and only scored. Frame 5 has none.
    """
    folder = tmp_path_factory.mktemp("page")
    frames = [toys.planted_frame(toys.SQUARE_PATCH, toys.SQUARE, 1 + k // 4) for k in range(12)]
    clip = write_clip(folder / "a <b> & c.mp4", frames, rate=RATE)
    face = {"box": [0, 0, 48, 48], "landmarks": [[16, 18], [32, 18], [24, 26], [18, 34], [30, 34]]}
    boxes = folder / "boxes.json"
    first = [{"frame": k, "track": 1, **face} for k in range(12) if k != 5]
    second = [{"frame": k, "track": 2, "box": [2, 2, 20, 20]} for k in range(6, 12)]
    boxes.write_text(json.dumps(first + second))
    with toys.planted_detector(folder / "toy", toys.SQUARE_PATCH, toys.SQUARE) as detector:
        result = explain_video(
            detector, clip, folder / "out", every=1, boxes=boxes, margin=1.0, settings=FAST,
            method="lime-adv,rise-adv",
        )  # fmt: skip
    return result.folder / "report.html"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary = chromium()
    if shutil.which("chromedriver") is None:
        pytest.skip("needs chromedriver: apt-get install chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    found = webdriver.Chrome(options=options, service=service)
    yield found
    found.quit()


def opened(driver: Any, page: Path, width: int = 1280, theme: str = "light") -> Any:
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": theme}]},
    )
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(page.absolute().as_uri())
    return driver


def js(driver: Any, script: str, *values: Any) -> Any:
    return driver.execute_script(script, *values)


def shown(driver: Any) -> dict[str, Any]:
    """What the viewer shows now."""
    return dict(
        js(
            driver,
            """
    const stage = document.getElementById("stage"), [crop, layer, drawn] = stage.children;
    return {now: document.getElementById("now").textContent, crop: crop.src, alt: crop.alt,
      loaded: crop.naturalWidth > 1, layer: layer.hidden ? null : layer.src,
      outlines: drawn.querySelectorAll("path").length,
      regions: [...document.querySelectorAll("#regions li span:nth-child(2)")]
        .map((s) => s.textContent),
      facts: document.getElementById("facts").textContent,
      said: document.getElementById("slider").getAttribute("aria-valuetext"),
      head: document.getElementById("playhead").getAttribute("x1")};""",
        )
    )


def press(driver: Any, label: str) -> None:
    """Click the choice with that label."""
    js(
        driver,
        """[...document.querySelectorAll('.choice')]
        .find((c) => c.textContent.trim() === arguments[0]).querySelector('input').click()""",
        label,
    )


def rows(page: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (page.parent / "frames.jsonl").read_text().splitlines()]


def test_scrubbing_shows_each_frame(driver: Any, page: Path) -> None:
    """By keyboard, as a user without a mouse would: each frame's own words and pictures."""
    opened(driver, page)
    faces = [row for row in rows(page) if row["track"] == 1]
    slider = driver.find_element("id", "slider")
    pictures = set()
    for index, row in enumerate(faces):
        seen = shown(driver)
        assert seen["loaded"]
        assert seen["now"].startswith(f"{row['time']:.2f} s, face 1: fake ")
        assert seen["said"] == seen["now"]
        best = [r["part"] for r in row["methods"]["lime-adv"]["top_regions"]]
        assert seen["regions"] == best
        assert best[0] in seen["alt"]
        assert f"{row['methods']['lime-adv']['images']:,}" in seen["facts"]
        pictures.add(seen["layer"])
        if index + 1 < len(faces):
            slider.send_keys("\ue014")  # arrow right
    assert len(pictures) > 1
    assert js(driver, "return document.getElementById('slider').value") == str(len(faces) - 1)
    driver.find_element("id", "back").click()
    assert shown(driver)["now"].startswith(f"{faces[-2]['time']:.2f} s")


def test_views_and_methods_switch(driver: Any, page: Path) -> None:
    opened(driver, page)
    heat = shown(driver)
    assert heat["layer"].startswith("data:image/webp")
    assert heat["outlines"] > 0
    press(driver, "Original")
    assert (shown(driver)["layer"], shown(driver)["outlines"]) == (None, 0)
    press(driver, "Region outlines")
    assert shown(driver)["layer"] is None
    assert shown(driver)["outlines"] == heat["outlines"]
    press(driver, "Adversarial difference")
    difference = shown(driver)["layer"]
    assert difference.startswith("data:image/webp")
    assert difference != heat["layer"]
    press(driver, "Heat")
    press(driver, "rise-adv")
    rise = shown(driver)
    assert rise["layer"] != heat["layer"]
    methods = rows(page)[0]["methods"]["rise-adv"]
    assert rise["regions"] == [region["part"] for region in methods["top_regions"]]
    tiles = js(driver, "return [...document.querySelectorAll('figure .stage img')].map(i => i.src)")
    assert heat["layer"] in tiles
    assert rise["layer"] in tiles


def test_the_timeline_and_the_table_lead_to_frames(driver: Any, page: Path) -> None:
    opened(driver, page)
    faces = [row for row in rows(page) if row["track"] == 1]
    points = js(driver, "return document.querySelectorAll('#timeline circle').length")
    assert points == len(faces) + 6
    assert js(driver, "return document.querySelectorAll('#timeline .gap').length") == 1
    js(
        driver,
        """const line = document.getElementById('timeline'), box = line.getBoundingClientRect();
        line.dispatchEvent(new PointerEvent('pointerdown',
          {clientX: box.left + 0.75 * box.width, bubbles: true}))""",
    )
    at = float(shown(driver)["head"].rstrip("%"))
    assert abs(at - 75) < 100 / 12
    link = driver.find_element("css selector", 'a[data-frame="000002-t1"][data-method="rise-adv"]')
    js(driver, "arguments[0].click()", link)
    seen = shown(driver)
    assert seen["now"].startswith(f"{faces[2]['time']:.2f} s")
    assert js(driver, "return document.querySelector('input[name=method]:checked').value") == (
        "rise-adv"
    )


def test_another_face_is_chosen(driver: Any, page: Path) -> None:
    """It keeps the moment, says that the face was only scored, and shows no heat."""
    opened(driver, page)
    slider = driver.find_element("id", "slider")
    slider.send_keys("\ue010")  # end
    last = [row for row in rows(page) if row["track"] == 2][-1]
    js(driver, "document.querySelector('input[name=face][value=\"2\"]').click()")
    seen = shown(driver)
    assert seen["now"].startswith(f"{last['time']:.2f} s, face 2: real ")
    assert (seen["layer"], seen["outlines"], seen["regions"]) == (None, 0, [])
    said = driver.find_element("id", "none").text
    assert said == "This face was scored, not explained."
    assert slider.get_attribute("max") == "5"
    js(driver, "document.querySelector('input[name=face][value=\"1\"]').click()")
    assert shown(driver)["layer"] is not None


def test_nothing_is_fetched_and_the_console_is_silent(driver: Any, page: Path) -> None:
    """One file alone in a folder: no request but the page and its own data, no complaint."""
    alone = page.parent.parent / "alone"
    alone.mkdir(exist_ok=True)
    copy = Path(shutil.copy(page, alone / "report.html"))
    (alone / "overlay.webm").write_bytes((page.parent / "overlay.webm").read_bytes())
    opened(driver, copy)
    for label in ("Original", "Region outlines", "Adversarial difference", "rise-adv", "Heat"):
        press(driver, label)
    driver.find_element("id", "on").click()
    assert driver.get_log("browser") == []
    asked = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in driver.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    inside = [url for url in asked if not url.startswith(("file:", "data:"))]
    assert inside == []


def test_the_name_of_the_clip_is_text_and_not_markup(driver: Any, page: Path) -> None:
    opened(driver, page)
    assert driver.title == "Why is a <b> & c.mp4 called fake?"
    assert js(driver, "return document.querySelector('h1').textContent") == driver.title


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_it_fits_and_follows_the_theme(driver: Any, page: Path, width: int, theme: str) -> None:
    opened(driver, page, width, theme)
    root = "document.documentElement"
    assert js(driver, f"return {root}.scrollWidth - {root}.clientWidth") == 0
    paper = js(driver, "return getComputedStyle(document.body).backgroundColor")
    brightness = np.mean([int(v) for v in paper[4:-1].split(",")])
    assert (brightness > 128) == (theme == "light")


def axe_source() -> str:
    """axe-core, from an npm install: WHYFAKE_AXE names the folder that holds node_modules."""
    folder = Path(os.environ.get("WHYFAKE_AXE", "."))
    path = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not path.is_file():
        pytest.skip("needs axe-core: npm install axe-core, and WHYFAKE_AXE names that folder")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_no_serious_fault(driver: Any, page: Path, width: int, theme: str) -> None:
    source = axe_source()
    opened(driver, page, width, theme)
    js(driver, source)
    faults = driver.execute_async_script(
        """const done = arguments[0]; axe.run(document).then((r) => done(r.violations.map(
        (v) => [v.impact, v.id, v.nodes.map((n) => n.html.slice(0, 120))])))"""
    )
    assert [fault for fault in faults if fault[0] in ("serious", "critical")] == []
    checks = driver.execute_async_script(
        "axe.run(document).then((r) => arguments[0](r.passes.length))"
    )
    assert checks > 20


def duration_in_browser(driver: Any, page: Path, name: str) -> tuple[float, int, int, str]:
    """What a <video> element says of a file: seconds, width, height; and its error."""
    holder = page.parent / "player.html"
    holder.write_text(f'<!DOCTYPE html><video muted src="{name}"></video>')
    opened(driver, holder)
    found = driver.execute_async_script(
        """const done = arguments[0], v = document.querySelector('video');
        const tell = () => done([v.duration, v.videoWidth, v.videoHeight, v.error?.message ?? '']);
        v.onerror = tell; v.onseeked = tell;
        const seek = () => { v.currentTime = v.duration * 0.9; };
        v.readyState >= 1 ? seek() : v.onloadedmetadata = seek;"""
    )
    holder.unlink()
    return found[0], found[1], found[2], found[3]


def test_the_overlay_plays_in_chromium(driver: Any, page: Path) -> None:
    """It decodes up to a seek near its end; duration, size and every time are the clip's."""
    seconds, width, height, error = duration_in_browser(driver, page, "overlay.webm")
    assert error == ""
    # WebM keeps whole milliseconds, and the last frame may be given one of its own
    assert seconds == pytest.approx(12 / float(RATE), abs=0.04)
    assert (width, height) == (48, 48)


@pytest.mark.parametrize("kind", ["webm", "mp4"])
def test_written_clips_keep_uneven_times(driver: Any, page: Path, kind: str) -> None:
    times = [0.0, 0.04, 0.3, 0.31, 1.0, 1.001001]
    path = page.parent / f"uneven.{kind}"
    with ClipWriter(path, (64, 96), RATE) as writer:
        for rgb, time in zip(numbered(6), times, strict=True):
            writer.write(rgb, time)
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    start = frames[0].time
    tolerance = 1e-3 if kind == "webm" else 1e-4
    np.testing.assert_allclose([f.time - start for f in frames], times, atol=tolerance)
    assert [number_of(f.to_ndarray(format="rgb24")) for f in frames[:4]] == [0, 1, 2, 3]
    seconds, width, height, error = duration_in_browser(driver, page, path.name)
    if kind == "mp4" and "no supported" in error.lower():
        pytest.skip("this Chromium was built without H.264")
    assert error == ""
    assert (width, height) == (96, 64)
    assert seconds == pytest.approx(1.0, abs=0.1)


def test_odd_sides_are_made_even_for_mp4_only(tmp_path: Path) -> None:
    import av

    for kind, size in (("webm", (33, 51)), ("mp4", (34, 52))):
        path = tmp_path / f"odd.{kind}"
        with ClipWriter(path, (33, 51), Fraction(25)) as writer:
            for index, rgb in enumerate(numbered(3, (33, 51))):
                writer.write(rgb, index / 25)
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            assert (frame.height, frame.width) == size


def test_a_clip_that_is_broken_off_is_not_there(tmp_path: Path) -> None:
    def broken() -> None:
        with ClipWriter(tmp_path / "x.webm", (64, 96), Fraction(25)) as writer:
            writer.write(numbered(1)[0], 0.0)
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        broken()
    assert list(tmp_path.iterdir()) == []
