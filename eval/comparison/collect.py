"""From the folders of finished runs to the rows of comparison.json and the pictures of the report."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.generation import SamplingOptions, sample_images
from wvq.pipelines.processes import this_device
from wvq.pipelines.training.run import read_metrics
from wvq.pipelines.training.saved_config import settled
from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.dataset import ImageDataset
from wvq.tokenizer.data.decoding import to_model, to_uint8
from wvq.tokenizer.quantizers.base import Quantizer
from wvq.tokenizer.storage.untrusted import read_json

from ..report.ablation import Ablation, Point
from ..report.run_report import RunReport
from ..sweep.grid import sampling_arguments
from .config import Cell, Comparison, in_setting
from .own_sampling import chosen_options, sweep_protocol, swept, used_sampling

_SHOWN_IMAGES, _SHOWN_FEATURES, _SHOWN_CLASSES, _SHOWN_SAMPLES = 16, 4_000, 10, 10
_SCORES = (
    "utilization", "perplexity", "quantization_error", "relative_quantization_error", "psnr", "ssim",
    "reconstruction_frechet_distance",
)  # fmt: skip


def table_row(config: Comparison, cell: Cell) -> dict[str, Any]:
    """A row of comparison.json."""
    folder = Path(config.output_dir) / cell.folder
    scores = read_json(folder / "scores.json")
    reconstruction, generation = scores["reconstruction"], scores["generation"]
    perturbation = scores.get("perturbation")  # which scores of older versions lack
    bits = _bits_per_token(folder / "prior")
    seconds: dict[str, float | None] = {stage: _training_seconds(folder / stage) for stage in config.stages}
    if (folder / "seconds.json").exists():
        seconds |= read_json(folder / "seconds.json")
    return {
        "quantizer": cell.method,
        "setting": config.setting(cell),
        "seed": cell.seed,
        **({"sampling": chosen_options(config, cell)} if swept(config) else {}),
        **{key: reconstruction[key] for key in _SCORES},
        **reconstruction.get("by_scale", {}),
        "token_entropy": reconstruction.get("token_entropy"),
        "perturbed_frechet_distance": perturbation and perturbation["perturbed_frechet_distance"],
        "generation_frechet_distance": generation and generation["generation_frechet_distance"],
        "bits_per_token": bits,
        "bits_per_image": None if bits is None else bits * config.training("tokenizer", cell).model.num_tokens,
        "extractor": reconstruction["protocol"]["extractor"]["name"],
        "weights_sha256": reconstruction["protocol"]["extractor"].get("weights_sha256"),
        "num_reference": reconstruction["num_images"],
        "num_perturbed": perturbation["num_images"] if perturbation else 0,
        "num_generated": generation["num_generated"] if generation else 0,
        "steps": {stage: read_json(folder / stage / "run.json")["steps"] for stage in config.stages},
        "seconds": {name: round(value, 1) for name, value in seconds.items() if value is not None},
    }


def shared_protocol(config: Comparison) -> dict[str, Any]:
    """What all rows have in common: scores and how they are taken, budgets, and what every method was given."""
    root = Path(config.output_dir)
    recipe = read_json(root / "recipe.json")
    scores = read_json(root / config.cells[0].folder / "scores.json")
    protocol = dict(scores["reconstruction"]["protocol"])
    del protocol["tokenizer"]
    if scores.get("perturbation"):
        own = scores["perturbation"]["protocol"]
        protocol["perturbation"] = {name: own[name] for name in ("rates", "strengths", "strengths_of", "seed")}
        protocol["perturbation"]["num_images"] = scores["perturbation"]["num_images"]
    if scores["generation"]:
        generation = scores["generation"]["protocol"]
        sampling = {k: v for k, v in generation["sampling"].items() if k != "tokenizer"}
        protocol["generation"] = {"num_generated": generation["num_generated"], "sampling": sampling}
        protocol["generation"]["reference"] = "the same evaluation images"
        if swept(config):
            for name in chosen_options(config, config.cells[0]):
                sampling[name] = "each run's own, by the sweep"
            protocol["generation"]["sweep"] = sweep_protocol(config)
    protocol["methods"] = {name: asdict(method) for name, method in config.methods.items()}
    if recipe["grid"]["values"]:
        protocol["grid"] = recipe["grid"] | {"chosen": "for every method the best on the validation images"}
    protocol["settings"] = recipe["settings"]
    protocol["seeds"] = recipe["seeds"]
    for name in ("quantizer", "quantizer_options"):
        recipe["tokenizer"]["model"].pop(name, None)
    for stage in ("tokenizer", "prior"):
        for key in ("data", "output_dir", "tokenizer", "tokens_dir", "seed", "log_with"):
            recipe[stage].pop(key, None)
        if config.budget(stage).given:
            recipe[stage]["steps"] = recipe[f"{stage}_budget"]
        else:
            recipe[stage] = settled(recipe[stage])
        protocol[f"{stage}_training"] = recipe[stage] if stage in config.stages else None
    return protocol


def load_run(
    folder: Path, tokenizers_only: bool, device: torch.device
) -> tuple[VQTokenizer, ClassConditionalPipeline | None]:
    """The tokenizer of a trained run, and its pipeline if it has a prior."""
    if tokenizers_only:
        return VQTokenizer.from_pretrained(folder / "tokenizer" / "model").to(device), None
    pipeline = ClassConditionalPipeline.from_pretrained(folder / "prior" / "pipeline").to(device)
    return pipeline.tokenizer, pipeline


@torch.no_grad()
def run_report(config: Comparison, cell: Cell, evaluation_set: ImageDataset) -> RunReport:
    """What the report shows of one run; images and features are taken from all over the evaluation set."""
    device = this_device()
    folder = Path(config.output_dir) / cell.folder
    tokenizer, pipeline = load_run(folder, config.tokenizers_only, device)
    quantizer = tokenizer.quantizer
    originals = _spread(evaluation_set, _SHOWN_IMAGES)
    some = _spread(evaluation_set, max(1, _SHOWN_FEATURES // tokenizer.config.num_positions))
    unquantized = quantizer.unquantized(tokenizer.features(to_model(some).to(device)))
    features = rearrange(unquantized, "b d h w -> (b h w) d")
    samples, names = _samples(pipeline, used_sampling(config, cell)) if pipeline else (None, ())
    return RunReport(
        quantizer=cell.method,
        setting=config.setting(cell),
        seed=cell.seed,
        tokenizer_metrics=read_metrics(folder / "tokenizer"),
        prior_metrics=read_metrics(folder / "prior"),
        code_histogram=np.asarray(read_json(folder / "scores.json")["code_histogram"]),
        features=features.cpu().numpy(),
        codes=quantizer.codebook.detach().cpu().numpy() if isinstance(quantizer, Quantizer) else None,
        originals=originals.numpy(),
        reconstructions=to_uint8(tokenizer.decode(tokenizer.encode(to_model(originals).to(device)))).cpu().numpy(),
        samples=samples,
        class_names=names,
    )


def _spread(dataset: ImageDataset, wanted: int) -> torch.Tensor:
    """Images (at most `wanted`) from all over the data set."""
    return dataset.take(evenly_spaced(len(dataset), wanted))["images"]


def _samples(pipeline: ClassConditionalPipeline, sampling: SamplingOptions) -> tuple[np.ndarray, tuple[str, ...]]:
    """Samples, uint8 (classes, per class, C, H, W), and the names of their classes."""
    num_classes = pipeline.prior.config.num_classes
    classes = evenly_spaced(max(num_classes, 1), _SHOWN_CLASSES)
    images = torch.cat(list(sample_images(pipeline, classes.repeat_interleave(_SHOWN_SAMPLES), sampling))).cpu()
    names = ("samples",)
    if num_classes:
        names = tuple(pipeline.class_names[k] if pipeline.class_names else f"class {k}" for k in classes.tolist())
    return rearrange(images, "(k n) c h w -> k n c h w", n=_SHOWN_SAMPLES).numpy(), names


def ablations(config: Comparison) -> list[Ablation]:
    """The studies, each with all the runs that belong to it."""
    found = []
    for name, settings in config.studies.items():
        points = []
        for setting in settings:
            values = {config.varied[full]: in_setting(value) for full, value in setting.items()}
            cells = [config.cell(method, setting, config.seeds[0]) for method in config.methods]
            points += [Point(cell.method, values, config.setting(cell)) for cell in cells]
        found.append(Ablation(name, points))
    return found


def commands(config: Comparison) -> list[str]:
    """The commands that make the numbers again: all at once, or stage by stage from each run's own recipe."""
    root = Path(config.output_dir)
    lines = [f"wvq compare --config {root}/recipe.json --output-dir runs/again"]
    for cell in config.cells:
        folder, again = root / cell.folder, f"runs/again/{cell.folder}"
        lines.append(f"wvq train-tokenizer --config {folder}/tokenizer/run.json --output-dir {again}/tokenizer")
        if not config.tokenizers_only:
            lines.append(f"wvq train-prior --config {folder}/prior/run.json --output-dir {again}/prior")
            sampling = sampling_arguments(used_sampling(config, cell))
            lines.append(f"wvq sample --pipeline {folder}/prior/pipeline --output-dir {again}/samples{sampling}")
    return lines


def _bits_per_token(folder: Path) -> float | None:
    """Of the held-out tokens by the prior that was saved: the last evaluation, after the last step; None without."""
    return next((row["bits_per_token"] for row in reversed(read_metrics(folder)) if "bits_per_token" in row), None)


def _training_seconds(folder: Path) -> float | None:
    return max((row["seconds"] for row in read_metrics(folder) if "seconds" in row), default=None)
