"""`wvq edit`: what it writes, what it notes, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_pipelines import tiny_pipeline

from wvq.pipelines.base import to_pil
from wvq.pipelines.command_line import parse
from wvq.pipelines.edit import Edit, edit
from wvq.pipelines.generation import image_generator
from wvq.tokenizer import InputError

ASKED: dict[str, Any] = {"pipeline": "pipe", "image": "photo.png", "class_label": "Bag", "num_images": 3}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a pipeline for 16 x 16 images, a photo of 16 x 16, another, and a mask for the first."""
    monkeypatch.chdir(tmp_path)
    tiny_pipeline().save_pretrained("pipe")
    for name, side in (("photo.png", 16), ("other.png", 20)):
        pixels = torch.randint(
            256, (1, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(side)
        )
        to_pil(pixels)[0].save(name)
    mask = Image.new("RGB", (16, 16))
    mask.paste((255, 255, 255), (3, 2, 11, 14))
    mask.save("mask.png")
    for name, mode, colour in (("ones.png", "L", 1), ("red.png", "RGB", (255, 0, 0)), ("black.png", "1", 0)):
        part = Image.new(mode, (16, 16))
        part.paste(colour, (3, 2, 11, 14))
        part.save(name)
    Path("text.png").write_text("no picture")
    return tmp_path


def test_results_are_the_pipelines_and_the_sheet_shows_them(folder: Path):
    out = edit(Edit(**ASKED, mask="mask.png", guidance_scale=2.0, batch_size=2, seed=5))
    assert sorted(path.name for path in out.iterdir()) == ["edit.json", "grid.png", "images"]
    given, mask = Image.open("photo.png"), Image.open("mask.png").convert("L")
    generators = [image_generator(5, number) for number in range(3)]
    options: dict[str, Any] = {"guidance_scale": 2.0, "generator": generators}
    expected = tiny_pipeline().inpaint([given] * 3, mask, ["Bag"] * 3, **options).images
    written = [Image.open(path) for path in sorted((out / "images").iterdir())]
    assert [image.tobytes() for image in written] == [image.tobytes() for image in expected]
    with Image.open(out / "grid.png") as sheet:  # the picture, its mask and the results, each pixel as 4 x 4
        cells = [sheet.crop((2 + 66 * i, 2, 66 + 66 * i, 66)).reduce(4) for i in range(5)]
    shown = [given, mask.convert("RGB"), *expected]
    assert [cell.tobytes() for cell in cells] == [image.tobytes() for image in shown]
    about = json.loads((out / "edit.json").read_text())
    assert {key: about[key] for key in ASKED} == ASKED
    assert (about["mask"], about["seed"], about["labels"], about["class_names"][2]) == ("mask.png", 5, [2] * 3, "Bag")


def test_a_prior_without_classes_draws_as_many(folder: Path):
    plain = tiny_pipeline(num_classes=0)
    plain.save_pretrained("plain")
    out = edit(Edit(**ASKED | {"pipeline": "plain", "class_label": None}, rows=7, batch_size=2))
    generators = [image_generator(0, number) for number in range(3)]
    expected = plain.complete([Image.open("photo.png")] * 3, 7, generator=generators).images
    written = [Image.open(path) for path in sorted((out / "images").iterdir())]
    assert [image.tobytes() for image in written] == [image.tobytes() for image in expected]


def test_the_command_line_has_the_three_ways_to_say_what_is_drawn():
    plain = ["--pipeline", "pipe", "--image", "photo.png"]
    config = parse("edit", [*plain, "--box", "2,3,9,12", "--num-images=3", "--top-p=0.9"])
    assert (config.image, config.box, config.num_images, config.top_p) == ("photo.png", (2, 3, 9, 12), 3, 0.9)
    assert parse("edit", [*plain, "--rows", "7", "--class-label", "2"]).rows == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 4, "image": ""}, "image is ''; give the file of a picture"),
        ({}, "what to draw is said by nothing; give one of mask, rows and box"),
        ({"rows": 4, "mask": "mask.png"}, "what to draw is said by mask and rows; give one"),
        ({"rows": 17}, "rows is 17; it must be from 0 to 16"),
        ({"rows": 4, "image": "absent.png"}, "image absent.png cannot be read: No such file or directory"),
        ({"rows": 4, "image": "text.png"}, "image text.png cannot be read: not an image in BMP, "),
        ({"rows": 16}, "rows is 16, all that the pipeline's images have; keep fewer"),
        ({"box": (0, 0, 16, 16)}, r"box is \(0, 0, 16, 16\), all of the pipeline's images; keep less"),
        ({"mask": "ones.png"}, "mask ones.png hides nothing: its highest grey value is 1; .* white, 128 and above"),
        ({"mask": "red.png"}, "mask red.png hides nothing: its highest grey value is 76; "),
        ({"mask": "black.png"}, "mask black.png hides nothing: its highest grey value is 0; "),
        ({"mask": "pipe"}, "mask pipe cannot be read: Is a directory"),
        ({"mask": "mask.png", "image": "other.png"}, r"mask has size \(16, 16\) and mode L; it must be \(20, 20\)"),
        ({"rows": 4, "class_label": "Bagg"}, "class 'Bagg' does not exist; did you mean Bag"),
        ({"rows": 4, "class_label": None}, "class_labels is None; this prior has 3 classes"),
        ({"rows": 4, "num_images": 0}, "num_images is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_edited_is_named_and_nothing_is_written(folder: Path, options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        edit(Edit(**ASKED | options))
    assert not (folder / "runs").exists()
