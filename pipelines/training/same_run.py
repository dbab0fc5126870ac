"""Whether a folder holds the run that a configuration describes: what it is made from counts, not where that lies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import read_json

from .saved_config import MAY_CHANGE, PLACES, as_json, first_difference, read_config

INPUTS_FILE = "inputs.json"

_READING = frozenset(
    {"image_size", "channels", "streaming", "image_column", "label_column", "skip_bad_images"}
    | {"evaluation_fraction", "validation_fraction"}
)
FROM_DATA = frozenset({"data.source", "data.root", *(f"data.{name}" for name in _READING)})
"""Fields that say where images lie and how they are read: what they lead to is in the hashes of inputs."""
_FROM_INPUTS = PLACES | FROM_DATA


Difference = tuple[str, Any, Any]
"""Name, old and new value."""


def recorded_config(folder: Path, config: Any) -> Any:
    """The configuration in a folder's run.json, of the class of `config` and with its output_dir.

    Raises:
        InputError: for a file that cannot be read.
    """
    return read_config(folder / "run.json", type(config), **_folder_of(config))


def run_difference(
    folder: Path, recorded: Any, config: Any, inputs: Mapping[str, str] | None = None
) -> Difference | None:
    """The first thing in which a folder's run and that of a configuration differ, or None.

    Args:
        folder: of the run; recent versions wrote an inputs.json into it.
        recorded: its configuration.
        config: the other one.
        inputs: hashes of what the other run is made from, by what that is; without them on either side the fields that
            name it are compared.
    """
    known = recorded_inputs(folder) if inputs else None
    ignored = MAY_CHANGE | _folder_of(config).keys() | (_FROM_INPUTS if known else frozenset())
    difference = first_difference(as_json(recorded), as_json(config), ignored)
    return difference or (inputs_difference(known, inputs) if known and inputs else None)


def recorded_inputs(folder: Path) -> dict[str, str] | None:
    """The hashes of what the run or comparison in a folder is made from; None in folders of older versions.

    Raises:
        InputError: for a file that cannot be read.
    """
    path = folder / INPUTS_FILE
    return read_json(path) if path.exists() else None


def inputs_difference(known: Mapping[str, str], inputs: Mapping[str, str]) -> Difference | None:
    """The first of the inputs that has another hash."""
    difference = first_difference(dict(known), dict(inputs))
    return difference and (difference[0], str(difference[1])[:12], str(difference[2])[:12])


def changed_input(folder: Path, inputs: Mapping[str, str]) -> Difference | None:
    """The first of some of the inputs of a folder's run that has another hash than there."""
    known = recorded_inputs(folder) or {}
    return inputs_difference(*({name: of[name] for name in inputs if name in known} for of in (known, inputs)))


def tokenizer_input(name_or_path: str) -> dict[str, str]:
    """The hash of a tokenizer as inputs have it; {} where it cannot be read, since it is gone."""
    try:
        return {"tokenizer": VQTokenizer.from_pretrained(name_or_path).fingerprint}
    except InputError:
        return {}


def is_of_inputs(difference: Difference) -> bool:
    """Whether a difference of fields may be none of what the run is made from, as of a data set that was moved."""
    return difference[0] in _FROM_INPUTS


def write_run(folder: Path, config: Any, inputs: Mapping[str, str] | None) -> None:
    """Write run.json and inputs.json, if they do not say so already; the folder, which may be moved, is not in them."""
    described = {name: value for name, value in as_json(config).items() if name not in _folder_of(config)}
    for name, content in (("run.json", described), (INPUTS_FILE, dict(inputs or {}))):
        path = folder / name
        if content and (not path.exists() or read_json(path) != content):
            write_json(path, content)


def _folder_of(config: Any) -> dict[str, Any]:
    return {"output_dir": config.output_dir} if hasattr(config, "output_dir") else {}
