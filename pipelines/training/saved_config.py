"""A configuration in a JSON file beside what it led to: read again by a later version, compared with a later one."""

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.untrusted import check_types, read_json, user_path

from .config import default_warmup

MAY_CHANGE = frozenset({
    *("data.num_workers", "log_every", "log_with", "checkpoint_every", "keep_checkpoints", "max_skipped_steps"),
    *("evaluate_every", "evaluation_images", "sample_every", "sample_guidance_scale"),
    *("gradient_checkpointing", "compile"),  # the same steps, to rounding
    "gradient_accumulation_steps",  # to rounding and to what each micro-batch draws for itself
})  # fmt: skip
"""Fields of a training, by dotted names, that do not change what comes out of it: they may change when it resumes."""

PLACES = frozenset({"data.source", "data.root", "tokenizer", "tokens_dir", "pipeline", "autoencoder", "latents_dir"})
"""Fields that say where something lies, by the ends of their dotted names: two names of one place are the same."""

Config = TypeVar("Config")


def as_json(config: Any) -> dict[str, Any]:
    """A configuration, a dataclass, as its JSON file holds it: with what a warm-up that is left open comes to."""
    return settled(as_given(config))


def as_given(config: Any) -> dict[str, Any]:
    """A configuration, a dataclass, as JSON has it, with all that is left open."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def settled(values: Any) -> Any:
    """JSON values with what every warm-up that is left open comes to, by the steps beside it."""
    if not isinstance(values, dict):
        return values
    known = {name: settled(value) for name, value in values.items()}
    if "steps" in known and known.get("warmup_steps", 0) is None:
        known["warmup_steps"] = default_warmup(known["steps"])
    return known


def read_config(path: Path, config_class: type[Config], **missing: Any) -> Config:
    """The configuration in a JSON file; the fields that it lacks, at any depth, have the defaults of their class.

    Args:
        path: of the file.
        config_class: a dataclass.
        missing: values of fields that are not written to such files.

    Raises:
        InputError: for a file that cannot be read, a field that this version does not have, a value of another type or
            out of bounds, and the lack of a field without a default; the message says which.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} does not hold a configuration")
    try:
        return _build(config_class, missing | values, "")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _build(config_class: type[Any], values: Mapping[str, Any], prefix: str) -> Any:
    fields, hints = dataclasses.fields(config_class), get_type_hints(config_class)
    for name in sorted(values.keys() - {field.name for field in fields}):
        raise InputError(f"{prefix}{name} is a field that this version does not have")
    for field in fields:
        if field.name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{prefix}{field.name} is missing and has no default")
    built = {name: _value(value, hints[name], f"{prefix}{name}.") for name, value in values.items()}
    check_types(built, config_class, prefix)
    return config_class(**built)


def _value(value: Any, hint: Any, prefix: str) -> Any:
    """A value of JSON as a field of that type holds it, if it fits: dataclasses and tuples instead of objects and
    lists."""
    kinds = (hint, *get_args(hint))  # itself, or the alternatives of a union
    if isinstance(value, dict):
        if get_origin(hint) is dict:
            return {key: _value(item, kinds[2], f"{prefix}{key}.") for key, item in value.items()}
        for kind in kinds:
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                return _build(kind, value, prefix)
    if isinstance(value, list) and any(get_origin(kind) is tuple for kind in kinds):
        return tuple(value)
    return value


def first_difference(old: Any, new: Any, ignored: Collection[str] = (), name: str = "") -> tuple[str, Any, Any] | None:
    """Dotted name, old and new value of the first difference between two JSON values, or None.

    Args:
        old, new: the values.
        ignored: dotted names of what may differ, beside two names of the same of the `PLACES`.
        name: of the two values themselves.
    """
    if name in ignored:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            found = first_difference(old.get(key), new.get(key), ignored, f"{name}.{key}" if name else key)
            if found:
                return found
        return None
    if old == new or (_is_place(name) and _same_place(old, new)):
        return None
    return name, old, new


def _is_place(name: str) -> bool:
    return any(f".{name}".endswith(f".{place}") for place in PLACES)


def _same_place(old: Any, new: Any) -> bool:
    """Whether two texts name one place: a slash at the end, "~", and where the working folder is make no difference."""
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    return os.path.abspath(user_path(old)) == os.path.abspath(user_path(new))
