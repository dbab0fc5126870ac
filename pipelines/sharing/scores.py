"""Scores as a model card has them: from the JSON of `wvq evaluate` or of a comparison to the hub's model-index."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult

from wvq.tokenizer import InputError

_TASKS = {
    "reconstruction": ("image-to-image", "Reconstruction by the tokenizer"),
    "perturbation": ("image-to-image", "Reconstruction by the tokenizer"),
    "generation": ("unconditional-image-generation", "Image generation"),
}
_DISTANCES = ("reconstruction_frechet_distance", "perturbed_frechet_distance", "generation_frechet_distance")
_NAMES = {
    "psnr": "PSNR (dB)",
    "psnr_luma": "PSNR of the luma (dB)",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS",
    "utilization": "Utilization of the codebook",
    "perplexity": "Perplexity of the codes",
    "token_entropy": "Token entropy (bits an image)",
    "quantization_error": "Quantization error",
    "relative_quantization_error": "Relative quantization error",
}
_DECIMALS = {"psnr": 2, "psnr_luma": 2, "ssim": 4}  # as in a report


def eval_results(scores: Mapping[str, Any]) -> list[EvalResult]:
    """An entry of the hub's model-index for each score, with its protocol as `metric_args`.

    The data set is that of the reference images, its revision their fingerprint. A Fréchet distance has the whole
    protocol; other scores of reconstructions have the one sentence that says how they are taken.

    Args:
        scores: "reconstruction" and, where there are any, "perturbation" and "generation".

    Raises:
        InputError: for JSON of another kind.
    """
    reason = "there are none of a pipeline or tokenizer"
    try:
        if found := [result for part in _TASKS if scores.get(part) for result in _of_part(part, scores[part])]:
            return found
    except (AttributeError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise InputError(f"the scores are not those that `wvq evaluate --output` writes: {reason}")


def tokenizers_of(scores: Mapping[str, Any]) -> set[str]:
    """Fingerprints of the tokenizers that the scores are of; there should be one."""
    protocols = [scores[part]["protocol"] for part in _TASKS if scores.get(part)]
    return {
        own["tokenizer"]
        for protocol in protocols
        for own in (protocol, protocol.get("sampling", {}))
        if "tokenizer" in own
    }


def _of_part(part: str, entry: Mapping[str, Any]) -> Iterator[EvalResult]:
    protocol = dict(entry["protocol"])
    reference = protocol.pop("reference")
    sentences = {name: text for names, text in protocol.items() for name in names.split(", ") if name in _NAMES}
    protocol = {names: value for names, value in protocol.items() if names.split(", ")[0] not in _NAMES}
    counts = {name: value for name, value in entry.items() if name.startswith("num_")}
    task_type, task_name = _TASKS[part]

    def result(key: str, name: str, value: float, args: Mapping[str, Any]) -> EvalResult:
        return EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type=str(reference["source"]),
            dataset_name=str(reference["source"]),
            dataset_split=reference.get("split"),
            dataset_revision=reference.get("fingerprint"),
            dataset_args=_known(reference),
            metric_type=key,
            metric_name=name,
            metric_value=value,
            metric_args=_known({**counts, **args}),
        )

    for key in _DISTANCES:
        if key in entry:
            yield result(protocol["score"].split("[")[0].lower(), protocol["score"], entry[key], protocol)
    for key, name in _NAMES.items():
        if entry.get(key) is not None:
            yield result(key, name, entry[key], {"measured": sentences[key]} if key in sentences else {})
    for key, one in entry.get("scores", {}).items():
        shown = {name: value for name, value in one.items() if name not in ("score", "value")}
        yield result(key, one["score"], one["value"], {**shown, "extractor": protocol["extractor"]})


def _known(value: Any) -> Any:
    """Without what is None, which the hub's metadata leave out."""
    if isinstance(value, Mapping):
        return {key: _known(inner) for key, inner in value.items() if inner is not None}
    return value


def value_text(result: EvalResult) -> str:
    """A score's value with the digits of a report, and its interval or deviation where it has one."""
    value, args = result.metric_value, result.metric_args or {}
    if result.metric_type == "utilization":
        return f"{100 * value:.1f} %"
    if result.metric_type in _DECIMALS:
        return f"{value:.{_DECIMALS[result.metric_type]}f}"
    text = _digits(value)
    if "low" in args and "high" in args:
        return f"{text} [{_digits(args['low'])}, {_digits(args['high'])}]"
    return f"{text} ± {_digits(args['deviation'])}" if "deviation" in args else text


def how_measured(result: EvalResult) -> str:
    """In a few words: of how many images, against which, and by which extractor."""
    args = result.metric_args or {}
    if "measured" in args:
        return args["measured"]
    words = [f"{args['num_generated']:,} generated"] if args.get("num_generated") else []
    images = args.get("num_reference") or args.get("num_images")
    words.append(f"{images:,} reference images" if images else "reference images")
    extractor = args.get("extractor")
    return ", ".join(words) + (f"; features of {extractor['name']}" if extractor else "")


def _digits(value: float) -> str:
    """Four significant ones."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(3 - math.floor(math.log10(abs(value))), 0)}f}"
