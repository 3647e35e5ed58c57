"""Makes the pictures of the README from a demonstration: `python docs/make_pictures.py`.

The screenshot of the page needs Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from whyfake import load_detector
from whyfake.demo import demo_request, run_demo
from whyfake.files import write_file
from whyfake.results import Results

IMAGES = Path(__file__).parent / "images"
PICTURES = {
    "forged.png": "forgery.png",
    "overlay.png": "forgery/lime-adv/overlay.png",
    "strip.png": "forgery/strip.png",
}


def main() -> None:
    """Run the demonstration and copy what the README shows to docs/images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with load_detector(device="cpu") as detector:
            run_demo(detector, demo_request(seed=0), Results(folder))
        for target, source in PICTURES.items():
            write_file(IMAGES / target, (folder / source).read_bytes())
        write_file(IMAGES / "demo.png", screenshot(folder / "index.html", 1240, 1330))


def screenshot(path: Path, width: int, height: int) -> bytes:
    """A page as Chromium draws it, a PNG."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium found: apt-get install chromium")
    target = path.with_name("screenshot.png")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    flags += ["--disable-background-networking", f"--window-size={width},{height}"]
    command = [browser, *flags, f"--screenshot={target}", path.as_uri()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return target.read_bytes()


if __name__ == "__main__":
    main()
