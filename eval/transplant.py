"""`wvq transplant`: a quantizer put into an autoencoder that exists, and what it costs beside the autoencoder alone."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from wvq.pipelines.processes import this_device
from wvq.pipelines.transplant.training import UNTRAINED, TransplantTraining, transplant
from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.data import ImageDataset, load_splits, to_model, to_uint8
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.metrics import ReconstructionQuality
from wvq.tokenizer.precision import float64_device
from wvq.tokenizer.storage.atomic import write_json

from .features.extractor import Extractor
from .features.registry import build_extractor
from .frechet_metric import FrechetDistance
from .scores import score_name

REPORT = "report.json"
_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Transplant(TransplantTraining):
    """A transplant, and its report."""

    extractor: str | None = None
    """Network whose features the rFD of the report is taken from, such as efficientnet-lite0; by default none is."""
    extractor_weights: str | None = None
    """File or folder of its weights, for those that have them from outside."""


def transplant_and_report(config: Transplant) -> str | None:
    """`transplant`, then report.json in its folder: PSNR, SSIM, utilization, perplexity and rFD of the evaluation
    images, by the autoencoder alone, by the quantizer before its first step, and by the one that was trained.

    Returns the report as text, on the main process alone.

    Raises:
        InputError: as `transplant`, and for an extractor that cannot be had.
    """
    training = {field.name: getattr(config, field.name) for field in fields(TransplantTraining)}
    extractor = None
    if config.extractor:  # what is wrong with it is said before the training
        extractor = build_extractor(config.extractor, config.extractor_weights).to(this_device())
    trained = transplant(TransplantTraining(**training))
    return on_first_process(lambda: _report(config, trained, extractor))


def _report(config: Transplant, trained: Path, extractor: Extractor | None) -> str:
    tokenizer = VQTokenizer.from_pretrained(trained).to(this_device())
    base = tokenizer.config.base
    assert base is not None
    dataset = load_splits(config.data.sized(tokenizer.config))[1]
    rows = {"the autoencoder alone": measure(tokenizer, dataset, extractor, quantized=False)}
    untrained = trained.parent / UNTRAINED
    if untrained.is_dir():
        first = VQTokenizer.from_pretrained(untrained).to(this_device())
        rows["step 0: codes from data, transported"] = measure(first, dataset, extractor)
    rows[f"step {config.steps}"] = measure(tokenizer, dataset, extractor)
    about = {name: getattr(base, name) for name in ("class_name", "source", "revision", "sha256")}
    report = {
        "autoencoder": about,
        "quantizer": f"{tokenizer.config.quantizer}, {tokenizer.config.codebook_size} codes of dimension "
        f"{tokenizer.config.codebook_dim}, {tokenizer.config.num_tokens} tokens an image",
        "images": dataset.description,
        "extractor": None if extractor is None else extractor.protocol,
        "rows": rows,
    }
    write_json(trained.parent / REPORT, report)
    return _table(rows, f"{base.class_name} {base.source}" + (f" at {base.revision}" if base.revision else ""))


@torch.no_grad()
def measure(
    tokenizer: VQTokenizer, dataset: ImageDataset, extractor: Extractor | None, quantized: bool = True
) -> dict[str, float]:
    """Scores of reconstructions by their names, in one process.

    Args:
        tokenizer: in eval mode; it and the extractor are on the same device.
        dataset: the images.
        extractor: of the features of rFD, or None.
        quantized: whether latents pass the projectors and the quantizer, or go to the decoder as they are: then there
            is no utilization and no perplexity.

    Raises:
        InputError: if the images do not fit the tokenizer.
    """
    quality = ReconstructionQuality(tokenizer.config.num_codes, tokenizer.config.codebook_dim)
    quality = quality.to(float64_device(tokenizer.device))
    distance = FrechetDistance(extractor) if extractor is not None else None
    for batch in dataset.batches(_AT_ONCE):
        originals = batch["images"].to(tokenizer.device)
        output = tokenizer(to_model(originals))
        images = output.reconstructions
        if not quantized:
            images = tokenizer.decoder(tokenizer.encoder(to_model(originals)))
        codes = tokenizer.quantizer.lookup(output.quantizer.indices)
        tokens = tokenizer.to_sequence(output.quantizer.indices)
        unquantized = tokenizer.quantizer.unquantized(output.features)
        quality.update(originals, to_uint8(images), unquantized, tokens, codes)
        if distance is not None:
            distance.update(originals, real=True)
            distance.update(to_uint8(images), real=False)
    scores = quality.compute()
    named = ("psnr", "ssim") + (("utilization", "perplexity", "relative_quantization_error") if quantized else ())
    found = {name: scores[name] for name in named}
    if distance is not None and extractor is not None:
        found[score_name(extractor, "reconstruction")] = float(distance.compute())
    return found


def _table(rows: dict[str, dict[str, Any]], title: str) -> str:
    """A table of Markdown, with a dash for what a row does not have."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        values = [f"{row[column]:.4g}" if column in row else "\N{EN DASH}" for column in columns]
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines)
