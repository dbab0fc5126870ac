"""The words and tables of a pipeline's card."""

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from wvq.pipelines.class_conditional import ClassConditionalPipeline
from wvq.pipelines.generation import SamplingOptions
from wvq.prior.order.sequences import has_free_order
from wvq.tokenizer import TokenizerConfig
from wvq.tokenizer.image_size import size_in_words

from .scores import how_measured, value_text

BEGIN = "<!-- The author's own words begin here, and stay when `wvq card` writes this page anew. -->"
END = "<!-- The author's own words end here. -->"
PLACE = "OWNER/NAME"
"""Stands in the card for the repository's name, until it is pushed to one."""

Rows = list[tuple[str, ...]]

_RASTER = "one after another"


def card_sections(pipeline: ClassConditionalPipeline, data: ModelCardData, options: SamplingOptions) -> dict[str, Any]:
    """What the template of the card is filled with."""
    config, num_classes = pipeline.tokenizer.config, pipeline.prior.config.num_classes
    names = [*pipeline.class_names] or [str(number) for number in range(num_classes)]
    results = data.eval_results or []
    references = {result.dataset_revision: result.dataset_args or {} for result in results}
    return {
        "name": data.model_name,
        "pixels": f"{size_in_words(config.image_size)} pixels, {'grey' if config.channels == 1 else 'RGB'}",
        "tokens": config.num_tokens,
        "codes": f"{config.num_codes:,}",
        "classes": _cell(", ".join(names)),
        "sampling": _sampling_words(options, num_classes),
        "begin": BEGIN,
        "end": END,
        "place": PLACE,
        "label": json.dumps(names[0], ensure_ascii=False) if names else None,
        "prompt": config.num_codes,
        "order": _order_words(pipeline),
        "by_generate": _order_words(pipeline) == _RASTER,
        "origin": _origin_rows(pipeline.origin),
        "configuration": _configuration_rows(pipeline),
        "results": [(_cell(r.metric_name), value_text(r), _cell(how_measured(r))) for r in results],
        "reference": "; ".join(map(_reference_words, references.values())),
        "licence": _licence_words(data),
    }


def _order_words(pipeline: ClassConditionalPipeline) -> str:
    config = pipeline.tokenizer.config
    if config.scales:
        return "scale by scale"
    order = "in any order" if has_free_order(pipeline.prior.config) else _RASTER
    return order if config.codes_per_position == 1 else f"{order}, {config.codes_per_position} at each position"


def _sampling_words(options: SamplingOptions, num_classes: int) -> str:
    words = [f"the first of seed {options.seed}" + (", a row for each class" if num_classes else "")]
    shown = {
        "guidance scale": (options.guidance_scale, 1.0),
        "temperature": (options.temperature, 1.0),
        "top-k": (options.top_k, 0),
        "top-p": (options.top_p, 1.0),
        "min-p": (options.min_p, 0.0),
        "guidance schedule": (options.guidance_schedule, "constant"),
        "guidance interval": (options.guidance_interval, None),
        "passes": (options.num_passes, 0),
    }
    words += [f"{name} {value}" for name, (value, plain) in shown.items() if value != plain]
    return ", ".join(words) + ("" if len(words) > 1 else ", without guidance or truncation")


def _origin_rows(origin: Mapping[str, Any] | None) -> Rows:
    """A row for each fact: its name, and what it is for tokenizer and prior."""
    if origin is None:
        return []
    stages = [origin["tokenizer"], origin["prior"]]
    facts: list[tuple[str, list[Any]]] = [
        ("images", [stage.get("data", {}).get("source", stage.get("loaded_from")) for stage in stages]),
        ("fingerprint of the training images", [_code(stage.get("data", {}).get("train_images")) for stage in stages]),
        ("crop", [stage.get("data", {}).get("crop") for stage in stages]),
        ("resize", [stage.get("data", {}).get("resize") for stage in stages]),
        ("mirrored at random", [_yes(stage.get("data", {}).get("horizontal_flip")) for stage in stages]),
        ("steps", [_count(stage.get("steps")) for stage in stages]),
        ("images a step", [_count(stage.get("batch_size")) for stage in stages]),
        ("images in all, repeated ones counted", [_count(stage.get("images")) for stage in stages]),
        ("held-out bits per token", [_digits(stage.get("bits_per_token")) for stage in stages]),
        ("hours", [_digits(stage.get("hours")) for stage in stages]),
    ]
    told = [(name, values) for name, values in facts if any(value is not None for value in values)]
    return [(name, *("\N{EN DASH}" if v is None else _cell(v) for v in values)) for name, values in told]


def _configuration_rows(pipeline: ClassConditionalPipeline) -> Rows:
    config, prior = pipeline.tokenizer.config, pipeline.prior
    options = ", ".join(f"{name} {value}" for name, value in config.quantizer_options.items())
    parts = {
        "quantizer": config.quantizer + (f" ({options})" if options else ""),
        "codebook": f"{config.codebook_size:,} codes of dimension {config.codebook_dim}"
        + (f", {config.codes_per_position} at each position" if config.codes_per_position > 1 else ""),
        "tokens": f"{size_in_words(config.grid_size)} positions, {config.num_tokens} tokens an image"
        + (f", at scales {', '.join(map(str, config.scales))}" if config.scales else ""),
        "tokenizer": f"{_parameters(pipeline.tokenizer)} parameters, {_network_words(config)}",
        "prior": f"{type(prior).__name__}, {_parameters(prior)} parameters, width {prior.config.hidden_size}, "
        f"{prior.config.num_hidden_layers} layers, {prior.config.num_attention_heads} heads",
        "tokenizer's fingerprint": _code(pipeline.tokenizer.fingerprint),
    }
    return [(name, _cell(value)) for name, value in parts.items()]


def _network_words(config: TokenizerConfig) -> str:
    if base := config.base:
        revision = f" at {base.revision}" if base.revision else ""
        return f"around the {base.class_name} {base.source}{revision}, sha256 of its weights {_code(base.sha256)}"
    multipliers = ", ".join(map(str, config.channel_multipliers))
    return f"{config.base_channels} base channels, multipliers {multipliers}, patches of {config.patch_size}"


def _reference_words(reference: Mapping[str, Any]) -> str:
    known = {name: reference.get(name) for name in ("source", "split", "count", "crop", "resize", "fingerprint")}
    return ", ".join(f"{name} {_code(v) if name == 'fingerprint' else v}" for name, v in known.items() if v is not None)


def _licence_words(data: ModelCardData) -> str:
    if data.license_name and data.license_link:
        return f"[{data.license_name}]({data.license_link})"
    if data.license or data.license_name:
        return str(data.license_name or data.license)
    return (
        "*Still to be chosen by the author* (`wvq card --license apache-2.0`); the images may have terms of their own."
    )


def _parameters(module: Any) -> str:
    count = sum(parameter.numel() for parameter in module.parameters())
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def _count(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _digits(number: float | None) -> str | None:
    return None if number is None else f"{number:.4g}"


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _code(text: str | None) -> str | None:
    return None if text is None else f"`{text}`"


def _cell(text: Any) -> str:
    """Text that stays in its cell of a table."""
    return " ".join(str(text).replace("|", r"\|").split())
