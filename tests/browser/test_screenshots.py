"""The pictures of pages show whole pages, and their sheet shows all of them."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from tests.screenshots import camera
from tests.screenshots.scenes import SCENES

SCENE = next(scene for scene in SCENES if scene.name == "inspect")


def test_a_scene_is_taken_in_each_width_and_put_on_the_sheet(browser, server, tmp_path):
    taken = list(camera.pictures(browser, server, tmp_path, [SCENE], (1280, 390), ["dark"]))
    assert [picture.file.name for picture in taken] == [
        "inspect-dark-1280.png",
        "inspect-dark-390.png",
    ]
    for picture in taken:
        image = Image.open(picture.file).convert("L")
        assert image.width == picture.width
        assert image.resize((1, 1)).getpixel((0, 0)) < 80  # dark
        assert picture.trouble == ""
    sheet = camera.contact_sheet([taken[0], replace(taken[1], trouble="error: <none>")])
    assert all(f"src='{picture.file.name}'" in sheet for picture in taken)
    assert "error: &lt;none&gt;" in sheet


def test_scenes_have_names_of_their_own():
    assert len({scene.name for scene in SCENES}) == len(SCENES)
