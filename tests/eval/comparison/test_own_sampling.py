"""A comparison with a sweep samples every run at that run's own best setting, chosen on training images."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_comparisons import toy_comparison

from wvq.eval.comparison.compare import Comparison, Method, claim_folder, compare
from wvq.eval.comparison.own_sampling import check_own_sampling
from wvq.eval.sweep.grid import Grid, SweepOptions
from wvq.pipelines.generation import SamplingOptions
from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.prior.model import PriorSize
from wvq.tokenizer import InputError, TokenizerConfig
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_every_run_is_sampled_at_its_own_best_setting(fashion_folder: Path, tmp_path: Path) -> None:
    data = DataConfig(source=str(fashion_folder), channels=1)
    model = TokenizerConfig(channels=1, base_channels=8, channel_multipliers=(1, 1, 1), num_blocks=1,
                            latent_channels=8, codebook_size=32, codebook_dim=4)  # fmt: skip
    config = Comparison(
        output_dir=str(tmp_path),
        data=data,
        methods={"plain": Method("vanilla"), "matched": Method("wasserstein")},
        tokenizer=TokenizerTraining(data=data, model=model, steps=2, warmup_steps=1, batch_size=16, evaluate_every=2),
        prior=PriorTraining(model=PriorSize(hidden_size=16, num_layers=1, num_heads=2), steps=2, warmup_steps=1,
                            batch_size=16, sample_every=0),
        sampling=SamplingOptions(top_k=20, batch_size=10),
        sweep=SweepOptions(Grid(guidance_scale=(1.0, 4.0), temperature=(0.7, 1.0)), num_generated=20, num_reference=30),
        num_generated=20,
        extractor="efficientnet-lite0",
    )  # fmt: skip
    report = compare(config)
    comparison = read(tmp_path / "comparison.json")
    for row in comparison["rows"]:
        folder = tmp_path / f"{row['quantizer']}-0"
        best = read(folder / "sweep" / "sweep.json")["results"][0]["setting"]
        assert row["sampling"] == {name: best[name] for name in ("guidance_scale", "temperature")}
        used = read(folder / "scores.json")["generation"]["protocol"]["sampling"]
        assert best.items() <= used.items()
        assert (used["seed"], used["top_k"], used["batch_size"]) == (0, 20, 10)
        assert "sweep" in row["seconds"]
        command = f"--guidance-scale {best['guidance_scale']:g}" if best["guidance_scale"] != 1 else "--top-k 20"
        assert command in report.read_text()
    generation = comparison["protocol"]["generation"]
    assert generation["sampling"]["guidance_scale"] == "each run's own, by the sweep"
    assert generation["sweep"]["grid"] == {"guidance_scale": [1.0, 4.0], "temperature": [0.7, 1.0]}
    train, _ = load_splits(config.data)
    assert generation["sweep"]["reference"]["fingerprint"] == train.fingerprint
    assert generation["sweep"]["seed"] == 1, "not the images that the score is of"
    with (tmp_path / "comparison.csv").open() as file:
        chosen = [float(row["sampling.guidance_scale"]) for row in csv.DictReader(file)]
    assert chosen == [row["sampling"]["guidance_scale"] for row in comparison["rows"]]
    assert "Guidance scale" in (tmp_path / "comparison.md").read_text()

    # What a run has swept is not swept again, though its scores are gone.
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/sweep/sweep.json")}
    assert len(kept) == 2
    (tmp_path / "plain-0" / "scores.json").unlink()
    compare(config)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    again = read(tmp_path / "comparison.json")
    for row in [*again["rows"], *comparison["rows"]]:
        del row["seconds"]
    assert again["rows"] == comparison["rows"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sampling": SamplingOptions(guidance_scale=1.5)},
            "guidance_scale is 1.5; a prior without classes takes only",
        ),
        ({"sweep": SweepOptions(Grid(guidance_scale=(1.0, 2.0)))}, "guidance_scale is 2.0; a prior without classes"),
        ({"sampling": SamplingOptions(num_passes=8)}, "num_passes is 8; a prior of raster order draws a token in each"),
        ({"sweep": SweepOptions(Grid(num_passes=(0, 16)))}, "num_passes is 16; a prior of raster order draws a token"),
        ({"sampling": SamplingOptions(guidance_interval=(3, 50))}, r"guidance_interval is \(3, 50\); valid are"),
    ],
)
def test_what_no_prior_can_draw_is_refused_before_anything_is_trained(
    fashion_folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    images, folder = tmp_path / "images", tmp_path / "one"
    images.mkdir()
    for path in sorted(fashion_folder.glob("train/*/*.png"))[:40]:
        shutil.copy(path, images / f"{path.parent.name}-{path.name}")  # no folder of a class: images without classes
    config = replace(toy_comparison(folder, images), sampling=SamplingOptions())
    with pytest.raises(InputError, match=f"sampling or sweep.grid, for plain-0: {message}"):
        compare(replace(config, **changes))
    assert not folder.exists()
    settled = replace(config, sampling=SamplingOptions(num_passes=49), tokenizers_only=False)
    check_own_sampling(settled, num_classes=0)
    free = replace(settled, prior=replace(config.prior, order="random"), sampling=SamplingOptions(num_passes=8))
    check_own_sampling(free, num_classes=0)


def test_sampling_and_extractor_may_change_until_a_run_is_scored(fashion_folder: Path, tmp_path: Path) -> None:
    first = toy_comparison(tmp_path, fashion_folder)
    claim_folder(tmp_path, first, {})
    mended = replace(first, sampling=SamplingOptions(), extractor="inception", num_generated=30, perturbed_images=5)
    claim_folder(tmp_path, mended, {})
    assert read(tmp_path / "recipe.json")["extractor"] == "inception"
    for name in ("sweep/sweep.json", "scores.json"):
        made = tmp_path / "plain-0" / name
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text("{}")
        with pytest.raises(InputError, match="holds a comparison with extractor = inception, this one has efficient"):
            claim_folder(tmp_path, first, {})
        made.unlink()
    claim_folder(tmp_path, first, {})
