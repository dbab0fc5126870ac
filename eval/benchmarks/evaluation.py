"""`wvq benchmark evaluation`: images a second and seconds a score, beside the tools that others score with."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from wvq.tokenizer import InputError
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.quantizers.gaussian import mean_and_covariance
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import expand_home

from ..feature_scores import FEATURE_SCORES
from ..features.feature_set import FeatureSet, extract_features
from ..features.image_sources import ImageFolder
from ..features.registry import build_extractor
from ..metrics.frechet import covariance_factor, frechet_distance
from .peers import feature_peers, hub_with, score_peers, write_random_inception

_PACKAGES = ("torch", "torchvision", "scipy", "torch-fidelity", "torchmetrics", "pytorch-fid")

TIMED_SCORES = tuple(name for name in FEATURE_SCORES if name != "sfid")  # that is fid of other features


@dataclass(frozen=True)
class EvaluationBenchmark:
    """The same PNG files through the same network by every tool, then every score of the same features; medians."""

    output: str = "runs/benchmark-evaluation.json"
    """File of the measurements."""
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=64))
    """The images, of the evaluation split."""
    num_images: int = 200
    """How many; 0 leaves this part out."""
    network: Literal["inception", "efficientnet-lite0"] = "inception"
    """Inception with random weights, or our EfficientNet-Lite0, which is given to the other tools as a module."""
    scores: tuple[str, ...] = ("distance", *TIMED_SCORES)
    """Which are timed; "distance" is the Fréchet distance of means and covariances that are there already."""
    num_features: int = 5000
    """Feature vectors of each side, drawn at random."""
    dimension: int = 2048
    """Of these vectors."""
    repeats: int = 3
    """Runs of each, the tools in turn."""
    threads: int = 0
    """Threads of torch for every tool; 0 for its own choice."""

    def __post_init__(self) -> None:
        expand_home(self, "output")
        object.__setattr__(self, "scores", tuple(self.scores))
        if unknown := [name for name in self.scores if name not in ("distance", *TIMED_SCORES)]:
            raise InputError(f"scores has {unknown[0]}; valid are distance, {', '.join(TIMED_SCORES)}")
        for name, least in (
            ("num_images", 0),
            ("num_features", 200),
            ("dimension", 20),
            ("repeats", 1),
            ("threads", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")


def benchmark_evaluation(config: EvaluationBenchmark) -> str:
    """Measure, write the measurements as JSON, and return them as tables.

    Raises:
        InputError: for data that cannot be read, or fewer images than asked for.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    passes = _compare_passes(config) if config.num_images else []
    scores = _compare_scores(config) if config.scores else []
    about = {
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "time": f"seconds on a CPU, {config.repeats} runs of the tools in turn; medians, of ratios within a turn",
        "passes": "from PNG files to features, loading the network included; batch sizes are the tools' own",
    }
    write_json(Path(config.output), {"config": asdict(config), "protocol": about, "passes": passes, "scores": scores})
    return "\n\n".join(filter(None, [_pass_table(passes), _score_table(scores)]))


def _compare_passes(config: EvaluationBenchmark) -> list[dict[str, Any]]:
    """A row for each tool: images through the network, and how far its mean feature is from torch-fidelity's."""
    images = load_splits(config.data)[1]
    if len(images) < config.num_images:
        raise InputError(f"num_images is {config.num_images}; the evaluation split has {len(images)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder, weights = Path(temporary, "images"), Path(temporary, "weights.pth")
        folder.mkdir()
        for index in range(config.num_images):
            pixels = images[index]["images"].expand(3, -1, -1).permute(1, 2, 0)
            Image.fromarray(pixels.numpy()).save(folder / f"{index:06d}.png")
        write_random_inception(weights)
        passes: dict[str, Callable[[Path, str], Tensor]] = {"wvq": _our_features, **feature_peers(config.network)}
        tools = {name: partial(taken, folder, config.network) for name, taken in passes.items()}
        with hub_with(weights, Path(temporary, "hub")):
            times, means = _measured(tools, config.repeats)
    other = "torch-fidelity, batch 64"
    expected = means[other].double()
    return [
        {
            "tool": name,
            "images_per_second": config.num_images / statistics.median(own.wall),
            "times_torch_fidelity": times[other].over(own),
            "difference": float((means[name].double() - expected).norm() / expected.norm()),
            "seconds": asdict(own),
        }
        for name, own in times.items()
    ]


def _our_features(folder: Path, network: str) -> Tensor:
    return extract_features(ImageFolder(folder), build_extractor(network), progress=False).vectors.mean(dim=0)


def _compare_scores(config: EvaluationBenchmark) -> list[dict[str, Any]]:
    """A row for each score and tool, of random features in ten classes."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -3, config.dimension)
    sides = [
        (torch.randn(config.num_features, config.dimension, generator=generator) * scales).relu() * scale
        for scale in (1.0, 1.1)
    ]
    real, generated = (
        FeatureSet(x, torch.arange(len(x)) % 10, x[:, :1008], {"name": "random"}, {"source": "random"}) for x in sides
    )
    given = mean_and_covariance(sides[0]), mean_and_covariance(sides[1])

    def distance() -> Tensor:
        factors = [(mean, covariance_factor(covariance)) for mean, covariance in given]
        return frechet_distance(*factors[0], *factors[1])

    ours: dict[tuple[str, str], Callable[[], object]] = {("distance", "wvq"): distance}
    ours |= {(name, "wvq"): partial(FEATURE_SCORES[name][1], real, generated) for name in TIMED_SCORES}
    tools = ours | score_peers(sides[0], sides[1], given)
    tools = {(score, tool): tools[score, tool] for score in config.scores for s, tool in tools if s == score}
    times, _ = _measured(tools, config.repeats)
    return [
        {
            "score": score,
            "tool": tool,
            "median_seconds": statistics.median(own.wall),
            "times_wvq": own.over(times[score, "wvq"]),
            "seconds": asdict(own),
        }
        for (score, tool), own in times.items()
    ]


@dataclass(frozen=True)
class _Times:
    """Seconds of each run: on the wall, and of all cores in this process and those it started."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def over(self, other: "_Times") -> dict[str, float]:
        """Medians of the ratios to another's runs in the same turns, which a varying load disturbs least."""
        ratios = {name: zip(getattr(self, name), getattr(other, name), strict=True) for name in ("wall", "cpu")}
        return {name: statistics.median(a / b for a, b in pairs) for name, pairs in ratios.items()}


def _measured(tools: dict[Any, Callable[[], Any]], repeats: int) -> tuple[dict[Any, _Times], dict[Any, Any]]:
    """Times of all tools in turn, and what each returned."""
    times, results = {name: _Times() for name in tools}, {}
    for name in progress_bar([name for _ in range(repeats) for name in tools], desc="measuring", unit="run"):
        wall, cpu = time.perf_counter(), _cpu_seconds()
        results[name] = tools[name]()
        times[name].wall.append(time.perf_counter() - wall)
        times[name].cpu.append(_cpu_seconds() - cpu)
    return times, results


def _cpu_seconds() -> float:
    """Of this process, and of those that it started and that have ended."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _pass_table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [f"{'tool':<26}{'images/s':>10}{'x torch-fidelity':>18}{'by CPU time':>13}{'difference':>12}"]
    for row in rows:
        ratio = "{wall:>18.2f}{cpu:>13.2f}".format(**row["times_torch_fidelity"])
        lines.append("{tool:<26}{images_per_second:>10.2f}{ratio}{difference:>12.1e}".format(**row, ratio=ratio))
    return "\n".join(lines)


def _score_table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [f"{'score':<16}{'tool':<20}{'seconds':>10}{'x wvq':>8}{'by CPU time':>13}"]
    for row in rows:
        ratio = "{wall:>8.2f}{cpu:>13.2f}".format(**row["times_wvq"])
        lines.append("{score:<16}{tool:<20}{median_seconds:>10.3f}{ratio}".format(**row, ratio=ratio))
    return "\n".join(lines)
