"""`wvq compare` with perturbed images: pFID in the rows, the table and the protocol, and none of it without them."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_runs import MODEL

from wvq.eval.comparison.compare import Comparison, compare
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.tokenizer import InputError
from wvq.tokenizer.data.config import DataConfig


def test_a_comparison_gives_the_distance_of_each_run(fashion_folder: Path, tmp_path: Path) -> None:
    schedule: dict[str, Any] = {"steps": 2, "warmup_steps": 1, "batch_size": 16, "evaluate_every": 2}
    config = Comparison(
        output_dir=str(tmp_path),
        data=DataConfig(str(fashion_folder), channels=1),
        tokenizer=TokenizerTraining(model=MODEL, **schedule),
        tokenizers_only=True,
        perturbed_images=20,
        extractor="efficientnet-lite0",
    )
    page = compare(config).read_text()
    content = json.loads((tmp_path / "comparison.json").read_text())
    for row in content["rows"]:
        scores = json.loads((tmp_path / f"{row['quantizer']}-0" / "scores.json").read_text())["perturbation"]
        distances = [setting["distance"] for setting in scores["by_setting"]]
        assert row["perturbed_frechet_distance"] == pytest.approx(sum(distances) / 15)
        assert row["num_perturbed"] == scores["num_images"] == 20
        assert row["bits_per_token"] is None, "there is no prior"
    assert content["protocol"]["perturbation"] == {
        "rates": [0.9, 0.8, 0.7, 0.6, 0.5], "strengths": [200, 280, 360], "strengths_of": 16384, "seed": 0,
        "num_images": 20,
    }  # fmt: skip
    assert "pFD[efficientnet-lite0]" in page
    assert "pFD[efficientnet-lite0] ↓" in (tmp_path / "comparison.md").read_text()
    with (tmp_path / "pairs.csv").open() as file:
        assert "pFD[efficientnet-lite0]" in {pair["score"] for pair in csv.DictReader(file)}
    with pytest.raises(InputError, match="holds a comparison with perturbed_images = 20, this one has 0"):
        compare(replace(config, perturbed_images=0))


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(InputError, match="perturbed_images is 1; it must be at least 2, or 0 for none"):
        Comparison(perturbed_images=1)
