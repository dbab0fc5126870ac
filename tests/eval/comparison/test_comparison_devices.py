"""`wvq compare` on another device: training, tokens, sampling and every score."""

import json
from pathlib import Path
from typing import Any

import pytest
from other_device import DEVICES, device_called

from wvq.eval.comparison.compare import Comparison, Method, compare
from wvq.pipelines.generation import SamplingOptions
from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.prior.model import PriorSize
from wvq.tokenizer import TokenizerConfig
from wvq.tokenizer.data.config import DataConfig


def compared(folder: Path, images: Path) -> dict[str, Any]:
    """The row of one method after two steps of each stage."""
    data = DataConfig(source=str(images), channels=1)
    model = TokenizerConfig(channels=1, base_channels=8, channel_multipliers=(1, 1, 1), num_blocks=1,
                            latent_channels=8, codebook_size=32, codebook_dim=4)  # fmt: skip
    schedule: dict[str, Any] = {"steps": 2, "warmup_steps": 1, "batch_size": 16}
    config = Comparison(
        output_dir=str(folder),
        data=data,
        methods={"matched": Method("wasserstein")},
        tokenizer=TokenizerTraining(data=data, model=model, evaluate_every=2, **schedule),
        prior=PriorTraining(model=PriorSize(hidden_size=16, num_layers=1, num_heads=2), sample_every=2, **schedule),
        sampling=SamplingOptions(guidance_scale=1.5, batch_size=10),
        num_generated=20,
        perturbed_images=4,
        extractor="efficientnet-lite0",
    )
    compare(config)
    return json.loads((folder / "comparison.json").read_text())["rows"][0]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, fashion_folder: Path) -> dict[str, Any]:
    return compared(tmp_path_factory.mktemp("cpu"), fashion_folder)


@pytest.mark.parametrize("name", DEVICES)
def test_a_comparison_has_the_scores_of_the_cpu(
    name: str, expected: dict[str, Any], fashion_folder: Path, tmp_path: Path
) -> None:
    with device_called(name):
        row = compared(tmp_path, fashion_folder)
    scores = {key: value for key, value in expected.items() if isinstance(value, float)}
    assert {"psnr", "perplexity", "generation_frechet_distance"} <= scores.keys()
    assert {key: row[key] for key in scores} == pytest.approx(scores, rel=2e-2)
