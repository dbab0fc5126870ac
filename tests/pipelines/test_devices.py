"""Training loops, pipelines and evaluation on another device, also where it has no float64."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from other_device import DEVICES, device_called
from tiny_pipelines import tiny_pipeline, tiny_tokenizer
from torch import Tensor
from toy_runs import rows, toy_stage

from wvq.eval.codebook import examine_tokenizer
from wvq.eval.features.reconstructions import measure_reconstructions
from wvq.eval.features.registry import build_extractor
from wvq.eval.frechet_metric import FrechetDistance
from wvq.eval.metrics.image_quality import multiscale_ssim, psnr_luma
from wvq.pipelines import ReconstructionPipeline
from wvq.tokenizer.data import DataConfig, load_splits

STAGES: dict[str, dict[str, Any]] = {
    "tokenizer": {"ema_decay": 0.9},
    "tokenizer, ema": {"gradient_accumulation_steps": 2},
    "tokenizer, transport": {},
    "prior": {"ema_decay": 0.9},
    "prior, muon": {"optimizer": "muon", "gradient_accumulation_steps": 2},
}
OPTIONS: dict[str, Any] = {"ema": {}, "transport": {"decay": 0.9}}  # neither codebook has a gradient


def images() -> Tensor:
    return torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def one_each(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_training_loop_does_what_it_does_on_the_cpu(stage: str, name: str, fashion_folder: Path, tmp_path: Path):
    kind, _, option = stage.partition(", ")
    scores = []
    for place in ("cpu", name):
        train, config = toy_stage(kind, fashion_folder, tmp_path / place)
        config = dataclasses.replace(config, steps=4, evaluate_every=2, **STAGES[stage])
        if option in OPTIONS:
            model = dataclasses.replace(config.model, quantizer=option, quantizer_options=OPTIONS[option])
            config = dataclasses.replace(config, model=model)
        if place == "cpu":
            train(config)
        else:
            with device_called(place):
                train(config)
        scores.append([row["psnr" if kind == "tokenizer" else "bits_per_token"] for row in rows(config, "evaluation")])
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)


CALLS: dict[str, Callable[[Any], Any]] = {
    "sample": lambda pipe: pipe([0, 1], generator=one_each(2), output_type="latent").images,
    "one generator": lambda pipe: pipe([0, 1], generator=one_each(1)[0], output_type="latent").images,
    "filters": lambda pipe: (
        pipe(
            [0, 1], generator=one_each(2), guidance_scale=2.0, top_k=9, top_p=0.9, min_p=0.01, output_type="latent"
        ).images
    ),
    "best of": lambda pipe: pipe(0, best_of=3, generator=one_each(1)[0], output_type="latent").images,
    "likelihood": lambda pipe: pipe.likelihood(images(), [0, 1, 2])["bits_per_token"],
    "complete": lambda pipe: pipe.complete(images(), 8, [0, 1, 2], generator=one_each(3), output_type="latent").images,
    "inpaint": lambda pipe: (
        pipe.inpaint(images(), torch.eye(16) > 0, [0, 1, 2], generator=one_each(3), output_type="latent").images
    ),
    "decode": lambda pipe: pipe([0, 1], generator=one_each(2), output_type="pt").images,
}


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("call", CALLS)
def test_a_pipeline_does_what_it_does_on_the_cpu(call: str, name: str):
    expected = CALLS[call](tiny_pipeline())
    pipeline = tiny_pipeline()
    with device_called(name) as device:
        made = CALLS[call](pipeline.to(device)).cpu()
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3, check_dtype=True)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "uint8", "latent"])
def test_reconstructions_come_in_every_type(output_type: str, name: str):
    pipeline: Any = ReconstructionPipeline(tiny_tokenizer())
    with device_called(name) as device:
        assert len(pipeline.to(device)(images(), output_type=output_type).images) == 3
        assert len(pipeline.interpolate(images(), images().flip(0), 3, output_type=output_type).images) == 9


@pytest.mark.parametrize("name", DEVICES)
def test_evaluation_measures_what_it_does_on_the_cpu(name: str, fashion_folder: Path):
    tokenizer, extractor = tiny_tokenizer(), build_extractor("efficientnet-lite0")
    _, held_out = load_splits(DataConfig(source=str(fashion_folder), channels=3, image_size=16))
    expected = measure_reconstructions(tokenizer, held_out, extractor, progress=False)
    report = examine_tokenizer(tokenizer, held_out)
    with device_called(name) as device:
        made = measure_reconstructions(tokenizer.to(device), held_out, extractor.to(device), progress=False)
        assert str(examine_tokenizer(tokenizer, held_out)) == str(report)
    torch.testing.assert_close(made.features.vectors, expected.features.vectors, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(made.measures["psnr_luma"], expected.measures["psnr_luma"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(made.quality["sums"], expected.quality["sums"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", DEVICES)
def test_metrics_give_what_they_do_on_the_cpu(name: str):
    extractor = build_extractor("efficientnet-lite0")
    large = [torch.randint(256, (1, 3, 176, 176), dtype=torch.uint8) for _ in range(2)]

    def measure(device: torch.device) -> list[Tensor]:
        distance = FrechetDistance(extractor).to(device)
        for _ in range(2):
            distance.reset()
            distance.update(images().to(device), real=True)
            distance.update(images().flip(3).to(device), real=False)
        there = [side.to(device) for side in large]
        return [value.cpu() for value in (distance.compute(), psnr_luma(*there), multiscale_ssim(*there))]

    expected = measure(torch.device("cpu"))
    with device_called(name) as device:
        torch.testing.assert_close(measure(device), expected, rtol=1e-2, atol=1e-2)
