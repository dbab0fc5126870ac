"""A prior from a folder: its configuration field by field and its weights, and nothing else that lies there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack, get_args

import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedConfig
from transformers.utils import logging

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.multi_scale import check_scales, scale_ends
from wvq.tokenizer.storage.hub import HubArguments, local_folder
from wvq.tokenizer.storage.pretrained import check_dtype
from wvq.tokenizer.storage.untrusted import file_inside, first_line, load_weights, read_json

from .generate import generation_config
from .model import PRIOR_CLASSES
from .order.sequences import TokenOrder, num_positions

_FINGERPRINTS = ("tokenizer_fingerprint", "token_fingerprint")
_GENERAL = PreTrainedConfig().to_dict().keys() - {"dtype"}  # of every transformers model; none of it shapes a prior


def load_prior(
    name_or_path: str | Path, torch_dtype: torch.dtype | None = None, **hub: Unpack[HubArguments]
) -> LlamaForCausalLM | GPT2LMHeadModel:
    """A prior from a folder or a hub repository with config.json and safetensors.

    transformers itself never sees the folder: there it would also follow adapters to other repositories, and a
    configuration may name attention kernels to download, quantizers and classes to import.

    Args:
        name_or_path: the folder, or the repository as "owner/name".
        torch_dtype: what the weights are cast to; by default they have the type they were saved with.
        hub: revision, subfolder ("prior" in a pipeline), token, cache_dir, local_files_only: see `HubArguments`.

    Raises:
        InputError: if it is missing or is no prior of this package.
    """
    check_dtype("torch_dtype", torch_dtype)
    folder = local_folder(name_or_path, **hub)
    path = file_inside(folder, "config.json")
    description = read_json(path)
    if not isinstance(description, dict):
        raise InputError(f"{path} does not describe a prior")
    architecture = description.get("model_type")
    if not isinstance(architecture, str) or architecture not in PRIOR_CLASSES:
        raise InputError(f"{path} has model_type {architecture!r:.60}; valid are {', '.join(PRIOR_CLASSES)}")
    model_class: Any = PRIOR_CLASSES[architecture]
    try:
        config = _configuration(description, model_class.config_class, path)
        weights = load_weights(folder, lambda: model_class(config))
        with without_bars():
            prior, report = model_class.from_pretrained(
                None, config=config, state_dict=weights, attn_implementation="sdpa", output_loading_info=True
            )
    except InputError:
        raise
    except Exception as error:  # transformers raises a dozen unrelated types on values that make no sense
        raise InputError(f"{folder} does not hold a prior that can be loaded: {first_line(error)}") from error
    if unfit := [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]:
        raise InputError(f"{folder} does not hold the weights its config.json describes: {min(map(str, unfit))}")
    prior.generation_config = generation_config(config)
    return prior if torch_dtype is None else prior.to(torch_dtype)


@contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' bars, which a prior of a few matrices, read or written, shows for no time at all."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _configuration(description: dict[str, Any], config_class: Any, path: Path) -> Any:
    """The configuration of a prior by `build_prior`, from the content of its config.json.

    Raises:
        InputError: for keys that are missing or unknown, and values of another type.
    """
    counts = {name: description.get(name) for name in ("num_codes", "num_tokens", "num_classes")}
    for name, value in counts.items():
        if name not in description:
            raise InputError(f"{path} has no {name}; it is not a prior made by build_prior")
        if type(value) is not int or value < 0:
            raise InputError(f"{path} has {name} = {value!r:.60}; it must be an integer of at least 0")
    per_position = description.get("codes_per_position", 1)
    if (
        type(per_position) is not int
        or per_position < 1
        or any(description[name] % per_position for name in ("num_codes", "num_tokens"))
    ):
        raise InputError(
            f"{path} has codes_per_position = {per_position!r:.60}; it must be an integer that divides num_codes and "
            "num_tokens"
        )
    if (order := description.get("token_order", "raster")) not in get_args(TokenOrder):
        raise InputError(f"{path} has token_order = {order!r:.60}; valid are {', '.join(get_args(TokenOrder))}")
    scales = description.get("scales", [])
    if scales != []:
        check_scales(scales)
        if scale_ends(scales)[-1] != description["num_tokens"]:
            raise InputError(f"{path} has scales = {scales!r:.60}; their squares do not sum up to num_tokens")
    names = description.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} has class_names = {names!r:.60}; it must be a list of strings")
    for name in _FINGERPRINTS:
        if not isinstance(fingerprint := description.get(name), str | None):
            raise InputError(f"{path} has {name} = {fingerprint!r:.60}; it must be a string")
    if description.get("dtype") not in (None, "float32", "bfloat16", "float16"):
        raise InputError(f"{path} has dtype = {description['dtype']!r:.60}; valid are float32, bfloat16, float16")
    own = counts.keys() | {"codes_per_position", "class_names", "token_order", "scales", *_FINGERPRINTS}
    known = config_class().to_dict().keys() | own
    if unknown := sorted(description.keys() - known):
        raise InputError(f"{path} has the unknown key '{unknown[0]}'; valid are {sorted(known - _GENERAL)}")
    config = config_class(**{name: value for name, value in description.items() if name not in _GENERAL | own})
    for name in own & description.keys():
        setattr(config, name, description[name])
    config.codes_per_position = per_position  # 1 in folders from before there were others
    if config.vocab_size != config.num_codes + num_positions(config) + config.num_classes + 1:
        positions = " + num_tokens" if num_positions(config) else ""
        raise InputError(
            f"{path} has vocab_size = {config.vocab_size}; it must be num_codes{positions} + num_classes + 1"
        )
    return config
