"""`wvq benchmark inpainting` at toy size."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_pipelines import tiny_pipeline, tiny_tokenizer

from wvq.eval.benchmarks.hole_fills import FLAT_FILLS, NEAREST, fill_rows
from wvq.eval.benchmarks.inpainting import InpaintingBenchmark, benchmark_inpainting
from wvq.pipelines.editing.known_tokens import drawn_positions
from wvq.pipelines.editing.masks import outside
from wvq.pipelines.generation import SamplingOptions, image_generator
from wvq.tokenizer import InputError
from wvq.tokenizer.adversarial.perceptual import PerceptualLoss
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.decoding import to_model


def test_each_pipeline_fills_the_hole_and_is_shown_it(fashion_folder: Path, tmp_path: Path):
    pipeline = tiny_pipeline(num_classes=0, channels=1)
    for name in ("one", "two"):
        pipeline.save_pretrained(tmp_path / name)
    names = (str(tmp_path / "one"), str(tmp_path / "two"))
    table = benchmark_inpainting(
        InpaintingBenchmark(
            names, DataConfig(str(fashion_folder)), str(tmp_path / "out"), num_images=6, num_shown=4,
            sampling=SamplingOptions(seed=3, batch_size=4),
        )
    )  # fmt: skip
    lines = table.splitlines()
    assert [line[40:50].strip() for line in lines[1:6]] == ["filled", "inpaint", "leak", "inpaint", "leak"]
    assert len(lines) == 6 + 2 + 9
    measured = json.loads((tmp_path / "out" / "inpainting.json").read_text())
    assert measured["protocol"]["hole"] == [4, 4, 12, 12]
    filled, *rows = measured["rows"]
    assert [(row["pipeline"], row["method"]) for row in rows] == [(n, m) for n in names for m in ("inpaint", "leak")]
    assert rows[0]["psnr_of_images"] == rows[2]["psnr_of_images"]  # one pipeline, the same random numbers
    assert rows[1]["psnr_of_images"] != rows[0]["psnr_of_images"] != filled["psnr_of_images"]
    assert "difference" not in rows[0]
    assert rows[1]["difference"]["value"] == pytest.approx(rows[1]["psnr"]["value"] - rows[0]["psnr"]["value"])

    _, dataset = load_splits(DataConfig(str(fashion_folder), image_size=16, channels=1))
    images = dataset.take(evenly_spaced(len(dataset), 6))["images"]
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[4:12, 4:12] = True
    generators = [image_generator(3, number) for number in range(6)]
    made = pipeline.inpaint(images, hole, generator=generators, output_type="uint8").images
    errors = (made.double() - images)[:, :, 4:12, 4:12].square().mean(dim=(1, 2, 3))
    expected = [20 * math.log10(255) - 10 * math.log10(error) for error in errors.tolist()]
    assert rows[0]["psnr_of_images"] == pytest.approx(expected)
    assert rows[0]["psnr"]["value"] == pytest.approx(sum(expected) / 6)
    with Image.open(tmp_path / "out" / "inpainting.png") as sheet:  # 4 images, 2 rows and 2 for each pipeline
        assert sheet.size == (4 * 66 + 2, 6 * 66 + 2)


def test_a_perceptual_distance_is_that_of_the_whole_images(fashion_folder: Path, tmp_path: Path):
    pipeline = tiny_pipeline(num_classes=0, channels=1, image_size=32)
    pipeline.save_pretrained(tmp_path / "pipeline")
    data, hole = DataConfig(str(fashion_folder)), ~outside((8, 8, 24, 24), 32)
    table = benchmark_inpainting(
        InpaintingBenchmark(
            (str(tmp_path / "pipeline"),), data, str(tmp_path / "out"), num_images=4, num_shown=4,
            perceptual="st-lpips-alex",
        )
    )  # fmt: skip
    _, dataset = load_splits(DataConfig(str(fashion_folder), image_size=32, channels=1))
    images = dataset.take(evenly_spaced(len(dataset), 4))["images"]
    generators = [image_generator(0, number) for number in range(4)]
    made = pipeline.inpaint(images, hole, generator=generators, output_type="uint8").images
    expected = PerceptualLoss("st-lpips-alex")(to_model(images), to_model(made)).item()
    measured = json.loads((tmp_path / "out" / "inpainting.json").read_text())
    assert measured["protocol"]["perceptual"]["name"] == "st-lpips-alex"
    assert measured["rows"][1]["perceptual"]["value"] == pytest.approx(expected, rel=1e-4)
    leak = measured["rows"][2]
    difference = leak["perceptual"]["value"] - measured["rows"][1]["perceptual"]["value"]
    assert leak["perceptual_difference"]["value"] == pytest.approx(difference)
    assert table.splitlines()[2].endswith(f"{expected:.4f}")


def test_fills_are_measured_on_the_positions_that_are_kept():
    tokenizer = tiny_tokenizer()
    images = torch.randint(256, (70, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    hole, nothing = ~outside((0, 0, 16, 4), 16), torch.zeros(16, 16, dtype=torch.bool)
    rows = {(row["mask"], row["fill"]): row for row in fill_rows(tokenizer, images, {"hole": hole, "none": nothing})}
    assert {fill for _, fill in rows} == {NEAREST, *FLAT_FILLS}
    for fill in (NEAREST, *FLAT_FILLS):
        assert rows["none", fill] == {"mask": "none", "fill": fill, "kept": 1, "same_codes": 1, "feature_error": 0}
    kept = ~drawn_positions(tokenizer, hole[None])[0]
    flat = images.clone()
    flat[:, :, :4] = images[:, :, 4].float().mean(dim=2, keepdim=True).round().to(torch.uint8)[:, :, None]
    whole, filled = (tokenizer.features(to_model(some)).detach() for some in (images, flat))
    error = (whole - filled).square().sum(dim=1)[:, kept].mean() / whole.var(dim=(0, 2, 3), correction=0).sum()
    same = (tokenizer.encode(to_model(flat)) == tokenizer.encode(to_model(images)))[:, kept].float().mean()
    row = rows["hole", "colour of the border"]
    assert row["kept"] == kept.float().mean()
    assert row["feature_error"] == pytest.approx(float(error), rel=1e-2)
    assert row["same_codes"] == pytest.approx(float(same))


@pytest.mark.parametrize("changes", [{"hole": 0.0}, {"hole": 1.5}, {"num_images": 1}, {"num_shown": 201}])
def test_bad_settings_are_named(changes: dict[str, Any]):
    with pytest.raises(InputError, match=f"{next(iter(changes))} is "):
        InpaintingBenchmark(**changes)


def test_pipelines_of_two_sizes_are_refused(tmp_path: Path):
    for name, channels in (("grey", 1), ("colour", 3)):
        tiny_pipeline(channels=channels).save_pretrained(tmp_path / name)
    config = InpaintingBenchmark((str(tmp_path / "grey"), str(tmp_path / "colour")))
    with pytest.raises(InputError, match=r"sizes and channels \[\(16, 1\), \(16, 3\)\]; give pipelines of one size"):
        benchmark_inpainting(config)
