"""The help of a command: what most people set, or everything."""

import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any, get_origin

from .listing import Option, alternatives, listed_options

HELP = frozenset({"-h", "--help", "--help-all"})

SHOWN_FIRST = {
    "demo": "output_dir seeds tokenizer.steps prior.steps tokenizers_only num_generated jobs extractor",
    "train-tokenizer": "data.source data.image_size data.channels output_dir steps batch_size learning_rate "
    "model.quantizer model.codebook_size model.codebook_dim model.patch_size model.base_channels mixed_precision "
    "perceptual_weight adversarial_weight discriminator_start evaluate_every checkpoint_every log_with seed",
    "refine-tokenizer": "tokenizer refine data.source output_dir steps batch_size learning_rate perceptual_weight "
    "adversarial_weight discriminator_start rollback_psnr mixed_precision evaluate_every checkpoint_every seed",
    "transplant": "autoencoder data.source data.image_size output_dir steps batch_size quantizer codebook_size "
    "codebook_dim projector_channels learning_rate sha256 revision subfolder extractor evaluate_every checkpoint_every "
    "seed",
    "tokenize": "tokenizer data.source data.horizontal_flip output_dir crops batch_size",
    "train-prior": "tokenizer data.source data.horizontal_flip output_dir steps batch_size learning_rate model.size "
    "model.architecture code_geometry mixed_precision gradient_accumulation_steps evaluate_every checkpoint_every "
    "sample_every log_with seed",
    "sample": "pipeline output_dir classes num_images_per_class num_images format guidance_scale temperature top_k "
    "top_p min_p seed batch_size",
    "edit": "pipeline image mask rows box class_label num_images output_dir guidance_scale temperature top_k top_p "
    "min_p seed",
    "reconstruct": "tokenizer data.source output_dir num_images",
    "evaluate": "tokenizer pipeline images reference data.source scores codebook num_images sampling.guidance_scale "
    "extractor extractor_weights resamples output",
    "sweep": "pipeline data.source output_dir grid.guidance_scale grid.temperature grid.top_k grid.top_p scores "
    "num_generated num_reference extractor extractor_weights",
    "compare": "output_dir data.source data.image_size data.channels methods baseline settings seeds tokenizer.steps "
    "prior.steps tokenizer_budget.images prior_budget.images tokenizers_only num_generated jobs extractor",
}
"""Options that most people set, by command; of one that is not here, those that are in no group."""

_COLUMN, _WIDEST = 32, 110


def short_help(parser: Any, name: str, summary: str, configuration: type) -> str:
    """The options that most people set, a sentence on each.

    Args:
        parser: jsonargparse's, which knows the defaults.
        name: of the command.
        summary: what it does.
        configuration: made by `declared`.
    """
    known = {option.name: option for option in listed_options(configuration)}
    shown = SHOWN_FIRST.get(name)
    chosen = [known[each] for each in shown.split()] if shown else [o for o in known.values() if "." not in o.name]
    defaults = parser.get_defaults()
    places = "".join(f" {option.name}" for option in chosen if option.required)
    lines = [f"usage: wvq {name} [options]{places}", "", summary, ""]
    lines += _entry("--config FILE", "A recipe: these options in a YAML or JSON file.")
    for option in chosen:
        if option.is_group:
            lines += _entry(f"{option.flag}.OPTION ...", _first_sentence(option.says))
        elif option.required:
            lines += _entry(option.flag, _first_sentence(option.says))
        else:
            value = _text(defaults.get(option.name))
            lines += _entry(f"{option.flag} {_placeholder(option)}", f"{_first_sentence(option.says)}{value}")
    count = sum(not option.is_group for option in known.values())
    return "\n".join([*lines, "", f"wvq {name} --help-all explains all {count} options."])


def long_help(parser: Any) -> str:
    """All options of a jsonargparse parser, with dashes instead of underscores."""
    return re.sub(r"--[a-z][\w.]*", lambda option: option[0].replace("_", "-"), parser.format_help())


def _entry(left: str, right: str) -> Iterator[str]:
    width = min(shutil.get_terminal_size().columns, _WIDEST) - _COLUMN
    first, *rest = textwrap.wrap(right, max(width, 40)) or [""]
    if len(left) + 3 > _COLUMN:
        yield f"  {left}"
        yield " " * _COLUMN + first
    else:
        yield f"  {left:<{_COLUMN - 2}}{first}"
    yield from (" " * _COLUMN + line for line in rest)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0]


def _placeholder(option: Option) -> str:
    if option.choices:
        return "{" + ",".join(option.choices) + "}"
    names = {int: "N", float: "X", str: "TEXT", dict: "{...}", list: "A,B,...", tuple: "A,B,..."}
    return next(
        (names[kind] for each in alternatives(option.hint) if (kind := get_origin(each) or each) in names), "VALUE"
    )


def _text(default: Any) -> str:
    """What is said of a default value that is worth saying."""
    if default is None or default == "" or (isinstance(default, tuple | list) and not default) or default == {}:
        return ""
    if isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, tuple | list):
        default = ",".join(map(str, default))
    elif isinstance(default, dict):
        default = ", ".join(map(str, default))
    return f" (default: {default})"
