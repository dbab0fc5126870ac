"""Reading a folder that somebody else made: only what lies in it, and its headers before memory is taken for them."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..errors import InputError

MAX_JSON_BYTES = 64 * 2**20
# What torch and safetensors raise for sizes that make no sense.
_UNFIT = (SafetensorError, OSError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError)


def user_path(text: str | Path) -> Path:
    """The path a user wrote, `~` and `~name` expanded: a shell does so only at the start of a word.

    Raises:
        InputError: where that home folder is not known.
    """
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError) as error:  # no such user, or a null character
        raise InputError(f"{str(text)!r}: {first_line(error)}") from error


def expand_home(config: Any, *names: str) -> None:
    """Expand `~` in these fields of a frozen dataclass, texts or None, from its `__post_init__`."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value.startswith("~"):
            object.__setattr__(config, name, str(user_path(value)))


def file_inside(folder: Path, name: str) -> Path:
    """The regular file of that name in a folder; a link may also lead to the hub's cache, which is made of links.

    Raises:
        InputError: for a file that is missing, that is no regular file, or that lies elsewhere.
    """
    path = folder / name
    check_inside(folder, path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if not path.is_file():
        raise InputError(f"{path} is no regular file")
    return path


def check_inside(folder: Path, path: Path) -> None:
    """Raises: InputError: if path, links resolved, is neither in the folder nor in the hub's cache."""
    target = Path(os.path.realpath(path))
    places = [os.path.realpath(place) for place in (folder, constants.HF_HUB_CACHE)]
    for repository in Path(places[0]).parents:  # of a cache elsewhere: REPOSITORY/snapshots/COMMIT links to its blobs
        if repository.name.startswith("models--") and (repository / "snapshots").is_dir():
            places.append(str(repository / "blobs"))
    if not any(target.is_relative_to(place) for place in places):
        raise InputError(f"{path} leads out of its folder, to {target}; only files in the folder are read")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: if the file is missing, is no JSON, or is larger than `MAX_JSON_BYTES`.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no regular file")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes; at most {MAX_JSON_BYTES:,} are read")
        return json.loads(path.read_bytes())  # of bytes it takes every encoding of JSON, and a byte-order mark
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, without the byte-order mark that some editors put before it.

    Raises:
        InputError: if the file cannot be read, has another encoding, or is larger than `MAX_JSON_BYTES`.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes; at most {MAX_JSON_BYTES:,} are read")
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (at byte {error.start}: {error.reason}); save it in UTF-8") from error


def check_types(values: Mapping[str, Any], config_class: type, prefix: str = "") -> None:
    """Check JSON values against the fields of a configuration class; lists stand for tuples.

    Args:
        values: by the name of their field; those of nested classes are built already.
        config_class: a dataclass.
        prefix: what a message has before the name of a field.

    Raises:
        InputError: naming the first value of another type.
    """
    hints = get_type_hints(config_class)
    for name, value in values.items():
        if not _is_of(value, hints[name]):
            wanted = hints[name].__name__ if isinstance(hints[name], type) else hints[name]
            raise InputError(f"{prefix}{name} is {_short(value)}; it must be of type {wanted}")


def _is_of(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        return any(_is_of(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_is_of(item, inner[0]) for item in value)
    if hint is float:
        return type(value) in (int, float)
    return hint is Any or type(value) is (origin or hint)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def load_weights(
    folder: Path, build: Callable[[], nn.Module], stem: str = "model", rename: Callable[[str], str] = str
) -> dict[str, Tensor]:
    """The weights of a folder, after what `build` makes has been compared with the headers of their files.

    A configuration may ask for widths and layers without end: it is built without memory first, and building stops when
    it has more parameters than the files.

    Args:
        folder: theirs.
        build: makes the module.
        stem: what the files are called without .safetensors.
        rename: from the name of a weight in the files to its name in the module.

    Raises:
        InputError: for files that are missing, lie elsewhere, are no safetensors, or hold other weights.
    """
    files = weight_files(folder, stem)
    try:
        headers = {rename(name): header for name, header in _headers(files).items()}
        with torch.device("meta"), _at_most(len(headers)):
            _check_fit(build(), headers)
        return {rename(name): tensor for path in files for name, tensor in load_file(path).items()}
    except _UNFIT as error:
        raise InputError(
            f"{files[0]} does not hold the weights its config.json describes: {first_line(error)}"
        ) from error


def weight_files(folder: Path, stem: str = "model") -> list[Path]:
    """STEM.safetensors of a folder, or the files that STEM.safetensors.index.json names.

    Raises:
        InputError: for files that are missing or lie elsewhere.
    """
    index_name = f"{stem}.safetensors.index.json"
    if (folder / f"{stem}.safetensors").exists() or not (folder / index_name).exists():
        return [file_inside(folder, f"{stem}.safetensors")]
    index = read_json(file_inside(folder, index_name))
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not named:
        raise InputError(f"{folder / index_name} has no weight_map")
    for name in named.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise InputError(f"{folder / index_name} names the file {_short(name)}; valid are safetensors beside it")
    return [file_inside(folder, name) for name in sorted(set(named.values()))]


def _headers(files: Sequence[Path]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every tensor; the library itself checks that the offsets in a header fill the file."""
    headers = {}
    for path in files:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (safetensors' file is no dict, and cannot be iterated over)
            headers |= {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    return headers


def _check_fit(module: nn.Module, headers: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    own = dict(module.named_parameters())
    tied = {name for name, _ in module.named_parameters(remove_duplicate=False)} - own.keys()
    expected = {name: tensor for name, tensor in module.state_dict().items() if name not in tied}
    for name in sorted(expected.keys() ^ headers.keys()):
        raise InputError(f"{name} is {'missing' if name in expected else 'no part of it'}")
    for name, (shape, kind) in headers.items():
        if shape != tuple(expected[name].shape):
            raise InputError(f"{name} has the shape {shape}, not {tuple(expected[name].shape)}")
        if kind.startswith(("F", "BF")) != expected[name].is_floating_point() or kind.startswith("C"):
            raise InputError(f"{name} has the type {kind}, not {expected[name].dtype}")


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    registered = 0

    def count_one(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal registered
        registered += 1
        if registered > 2 * count + 8:  # a parameter may be replaced, as by tying two of them
            raise InputError(f"it describes more than the {count} tensors that the file holds")

    hook = register_module_parameter_registration_hook(count_one)
    try:
        yield
    finally:
        hook.remove()


def first_line(error: BaseException) -> str:
    """The first line of an error's message: torch goes on for pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()
