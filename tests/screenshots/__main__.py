"""Pictures of every page and mode on the bundled model, light and dark, in three widths.

python -m tests.screenshots OUT                      everything; OUT/index.html shows it
python -m tests.screenshots OUT --only layers patch  some scenes
python -m tests.screenshots --readme                 the README's pictures, in examples/
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.app_server import ROOT, launch_arguments, serving
from tests.screenshots import camera
from tests.screenshots.scenes import SCENES, Scene

PATIENCE = 60_000  # milliseconds
README = {"overview": "overview", "inspect-run": "live-routing", "layers": "layers"}
README_WINDOW = {"width": 1280, "height": 900}
README_COLOURS = 128


def main(arguments: list[str] | None = None) -> int:
    """Take the pictures; exit code 1 where a page shows an error or is wider than its window."""
    names = [scene.name for scene in SCENES]
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots")
    parser.add_argument("out", nargs="?", type=Path, help="folder for the pictures")
    parser.add_argument("--only", nargs="+", choices=names, metavar="SCENE", help=", ".join(names))
    parser.add_argument("--width", nargs="+", type=int, default=camera.WIDTHS)
    parser.add_argument("--scheme", nargs="+", choices=camera.SCHEMES, default=camera.SCHEMES)
    parser.add_argument("--readme", action="store_true", help="remake the README's pictures")
    asked = parser.parse_args(arguments)
    if (asked.out is None) != asked.readme:
        parser.error("give a folder for the pictures, or --readme")
    expect.set_options(timeout=PATIENCE)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as address:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(**launch_arguments())
            if asked.readme:
                return for_readme(browser, address)
            scenes = [one for one in SCENES if not asked.only or one.name in asked.only]
            return everything(browser, address, asked, scenes)


def everything(
    browser: Browser, address: str, asked: argparse.Namespace, scenes: list[Scene]
) -> int:
    """All pictures and their contact sheet, a line for each."""
    asked.out.mkdir(parents=True, exist_ok=True)
    taken = []
    for picture in camera.pictures(browser, address, asked.out, scenes, asked.width, asked.scheme):
        taken.append(picture)
        print(f"{picture.file.name}  {picture.seconds:.1f} s  {picture.trouble}", flush=True)
        sheet = camera.contact_sheet(taken)
        (asked.out / "index.html").write_text(sheet, encoding="utf-8")
    return int(any(picture.trouble for picture in taken))


def for_readme(browser: Browser, address: str) -> int:
    """The first screens of three pages, small enough for a repository."""
    for scene in SCENES:
        if scene.name not in README:
            continue
        page = browser.new_page(viewport=README_WINDOW, color_scheme="light")
        page.goto(address + scene.path)
        scene.act(page)
        image = Image.open(io.BytesIO(camera.still(page))).convert("RGB")
        file = ROOT / "examples" / f"{README[scene.name]}.png"
        image.quantize(README_COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
        print(f"{file.name}  {file.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
