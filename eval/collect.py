"""From the folders of finished runs to the rows of comparison.json and the pictures of the report."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.sample import SamplingOptions, sample_images
from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.data import ImageDataset, to_model, to_uint8

from .report import RunReport

if TYPE_CHECKING:
    from .compare import Comparison

_SHOWN_IMAGES, _SHOWN_FEATURES, _SHOWN_CLASSES, _SHOWN_SAMPLES = 16, 4_000, 10, 10


def table_row(name: str, seed: int, scores: dict[str, Any], folder: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """A row of comparison.json."""
    reconstruction, generation = scores["reconstruction"], scores["generation"]
    keys = (
        "utilization",
        "perplexity",
        "quantization_error",
        "relative_quantization_error",
        "psnr",
        "ssim",
        "reconstruction_frechet_distance",
    )
    training = {stage: _training_seconds(folder / stage) for stage in ("tokenizer", "prior")}
    return {
        "quantizer": name,
        "seed": seed,
        **{key: reconstruction[key] for key in keys},
        "generation_frechet_distance": generation and generation["generation_frechet_distance"],
        "extractor": reconstruction["protocol"]["extractor"]["name"],
        "num_reference": reconstruction["num_images"],
        "num_generated": generation["num_generated"] if generation else 0,
        "seconds": {k: round(v, 1) for k, v in {**training, **seconds}.items() if v is not None},
    }


def shared_protocol(config: "Comparison", scores: dict[str, Any]) -> dict[str, Any]:
    """What all rows have in common: scores and how they are taken, budgets, and what every method was given."""
    protocol = dict(scores["reconstruction"]["protocol"])
    del protocol["tokenizer"]
    recipe = json.loads((Path(config.output_dir) / "recipe.json").read_text())
    for part in ("tokenizer", "prior"):
        for key in ("data", "output_dir", "tokenizer", "tokens_dir", "seed", "log_with"):
            recipe[part].pop(key, None)
    if scores["generation"]:
        generation = scores["generation"]["protocol"]
        sampling = {k: v for k, v in generation["sampling"].items() if k != "tokenizer"}
        protocol["generation"] = {"num_generated": generation["num_generated"], "sampling": sampling}
        protocol["generation"]["reference"] = "the same evaluation images"
    recipe["tokenizer"]["model"].pop("quantizer", None)
    recipe["tokenizer"]["model"].pop("quantizer_options", None)
    protocol["methods"] = recipe["methods"]
    protocol["tokenizer_training"] = recipe["tokenizer"]
    protocol["prior_training"] = None if config.tokenizers_only else recipe["prior"]
    return protocol


@torch.no_grad()
def run_report(
    name: str,
    seed: int,
    scores: dict[str, Any],
    folder: Path,
    tokenizer: VQTokenizer,
    pipeline: ClassConditionalPipeline | None,
    evaluation_set: ImageDataset,
    sampling: SamplingOptions,
) -> RunReport:
    """What the report shows of one run; images and features are taken from all over the evaluation set."""
    device = tokenizer.quantizer.codebook.device
    chosen = torch.linspace(0, len(evaluation_set) - 1, min(_SHOWN_IMAGES, len(evaluation_set))).long()
    originals = evaluation_set.__getitems__(chosen.tolist())["images"]
    reconstructions = to_uint8(tokenizer.decode(tokenizer.encode(to_model(originals).to(device)))).cpu()

    wanted = max(1, _SHOWN_FEATURES // tokenizer.config.grid_size**2)
    chosen = torch.linspace(0, len(evaluation_set) - 1, min(wanted, len(evaluation_set))).long()
    some = evaluation_set.__getitems__(chosen.tolist())["images"]
    features = rearrange(tokenizer.features(to_model(some).to(device)), "b d h w -> (b h w) d")

    samples, names = None, ()
    if pipeline is not None:
        num_classes = pipeline.prior.config.num_classes
        classes = torch.linspace(0, max(num_classes - 1, 0), min(max(num_classes, 1), _SHOWN_CLASSES)).long()
        labels = classes.repeat_interleave(_SHOWN_SAMPLES)
        images = torch.cat(list(sample_images(pipeline, labels, sampling))).cpu()
        samples = rearrange(images, "(k n) c h w -> k n c h w", n=_SHOWN_SAMPLES).numpy()
        if num_classes:
            names = tuple(pipeline.class_names[k] if pipeline.class_names else f"class {k}" for k in classes.tolist())
        else:
            names = ("samples",)
    return RunReport(
        quantizer=name,
        seed=seed,
        tokenizer_metrics=_metrics(folder / "tokenizer"),
        prior_metrics=_metrics(folder / "prior"),
        code_histogram=np.asarray(scores["code_histogram"]),
        features=features.cpu().numpy(),
        codes=tokenizer.quantizer.codebook.detach().cpu().numpy(),
        originals=originals.numpy(),
        reconstructions=reconstructions.numpy(),
        samples=samples,
        class_names=names,
    )


def commands(config: "Comparison") -> list[str]:
    """The commands that make the numbers again: all at once, or stage by stage from each run's own recipe."""
    root = Path(config.output_dir)
    lines = [f"wvq compare --config {root}/recipe.json --output-dir runs/again"]
    for seed in config.seeds:
        for name in config.methods:
            folder = root / f"{name}-{seed}"
            lines.append(f"wvq train-tokenizer --config {folder}/tokenizer/run.json --output-dir runs/again/tokenizer")
            if not config.tokenizers_only:
                lines.append(f"wvq train-prior --config {folder}/prior/run.json --output-dir runs/again/prior")
                lines.append(f"wvq sample --pipeline {folder}/prior/pipeline --output-dir runs/again/samples")
    return lines


def _metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _training_seconds(folder: Path) -> float | None:
    return max((row["seconds"] for row in _metrics(folder) if "seconds" in row), default=None)
