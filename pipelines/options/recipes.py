"""Recipes: YAML of plain values. They cannot name code to run, and whose they are says where they may write.

A recipe is one's own if it is given as `--config` and was not downloaded from the hub; it may name any folder to write
into, as the command line may. Downloaded are files in the hub's cache, and those that `hf download --local-dir` keeps a
note of. They, and recipes that another recipe names, stay in the folder that the command is started in.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial, reduce
from itertools import pairwise
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import yaml
from huggingface_hub import constants
from jsonargparse import get_loader, set_loader

from wvq.tokenizer.errors import InputError

from .lists import read_lists

MAX_VALUES = 100_000
_CODE = ("class_path", "init_args", "dict_kwargs")  # what jsonargparse would import and call
_WRITTEN = ("output_dir", "output", "tokens_dir", "latents_dir", "resume_dir", "save_reference")


Found = list[tuple[str, Any]]  # options that follow another, with the values that recipes give them


def allow_recipes(
    arguments: Sequence[str], lists: Mapping[str, bool], followers: Mapping[str, str], found: Found
) -> str:
    """Make `load_recipe` known to jsonargparse, for a command line (underscores in its options) and its `list_options`;
    returns the `parser_mode` of the parser that is to use it.

    Args:
        followers: of each option that follows another, which that is.
        found: gets those that a recipe names, which the parser ignores.

    Raises:
        InputError: for an option of the command line that follows another.
    """
    given = {argument.removeprefix("--").partition("=")[0] for argument in arguments if argument.startswith("--")}
    if following := sorted(given & followers.keys()):
        raise InputError(f"{following[0]} follows {followers[following[0]]}; give that")
    own = set(_own_texts(arguments))
    names = [name for name, leader in followers.items() if leader not in given]  # a recipe's leader is replaced
    load = partial(load_recipe, given=given, own=own, lists=lists, followers=names, found=found)
    set_loader("recipe", load, (yaml.YAMLError,))
    return "recipe"


def load_recipe(
    text: str,
    given: Collection[str] = (),
    own: Collection[str] = (),
    lists: Mapping[str, bool] = MappingProxyType({}),
    followers: Collection[str] = (),
    found: Found | None = None,
) -> Any:
    """The values in a recipe, or in one option of the command line: what jsonargparse's own loader makes of them.

    Args:
        text: YAML.
        given: options of the command line, which replace the recipe's.
        own: texts that may name any folder to write into.
        lists: as `list_options` gives them.
        followers, found: options that follow another; gets those that the recipe names, with its values.

    Raises:
        InputError: for the name of a class, a folder to write into that is not among `given` and, of a text that is not
            among `own`, leaves the working folder, and references that unfold to more than `MAX_VALUES` values.
    """
    content = get_loader("yaml")(text)
    pending, count = [("", content)], 0
    while pending:
        prefix, value = pending.pop()
        count += 1
        if count > MAX_VALUES:
            raise InputError(f"the recipe unfolds to more than {MAX_VALUES:,} values")
        if isinstance(value, dict):
            _check(value, prefix, given, text in own)
            pending.extend((f"{prefix}{key}.", item) for key, item in value.items())
        elif isinstance(value, list):
            pending.extend((prefix, item) for item in value)
    if found is not None:
        found.extend((name, value) for name in followers if (value := _value_at(content, name)) is not None)
    return read_lists(content, text, lists)


def agreed(configuration: Any, followers: Mapping[str, str], found: Found) -> Any:
    """The configuration, in which options that follow another have its value, if that is what recipes give them.

    Raises:
        InputError: for a recipe's value that is another.
    """
    for name, value in found:
        wanted = reduce(getattr, name.split("."), configuration)
        if _as_pair(value) != _as_pair(wanted):
            leader = followers[name]
            raise InputError(
                f"a recipe has {name} = {value}, which follows {leader} and is {wanted}; give {leader} alone"
            )
    return configuration


def is_downloaded(file: Path) -> bool:
    """Whether a file, links resolved, is one of the hub's: in its cache, or where `hf download --local-dir` put it."""
    file = Path(os.path.realpath(file))
    notes = (
        folder / ".cache" / "huggingface" / "download" / f"{file.relative_to(folder)}.metadata"
        for folder in file.parents
    )
    return file.is_relative_to(os.path.realpath(constants.HF_HUB_CACHE)) or any(note.exists() for note in notes)


def _own_texts(arguments: Sequence[str]) -> Iterator[str]:
    """What the user has typed, and the recipes among it that nobody downloaded."""
    for before, argument in pairwise(["", *arguments]):
        option, _, value = argument.partition("=") if argument.startswith("--") else (before, "", argument)
        yield value
        if option == "--config":
            with suppress(OSError, ValueError, RuntimeError):  # of what is no such file; jsonargparse says so
                file = Path(value).expanduser()
                if not is_downloaded(file):
                    yield file.read_text()


def _as_pair(size: Any) -> Any:
    """Height and width of an image size, which may be one number for both."""
    return list(size) if isinstance(size, list | tuple) else [size, size]


def _value_at(content: Any, name: str) -> Any:
    """The value of a dotted name in the content of a recipe, nested or not; None if there is none."""
    if isinstance(content, dict) and name in content:
        return content[name]
    for part in name.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _check(options: dict[Any, Any], prefix: str, given: Collection[str], own: bool) -> None:
    for key, value in options.items():
        name = str(key).rpartition(".")[2]
        if name in _CODE:
            raise InputError(f"the recipe has the key '{key}', which names code to run; valid are a command's options")
        if name in _WRITTEN and isinstance(value, str) and f"{prefix}{key}" not in given:
            path = PurePath(value)
            if not own and (path.is_absolute() or ".." in path.parts or value.startswith("~")):
                raise InputError(
                    f"the recipe has {key} = {value}, outside the working folder, where only a recipe of your own may "
                    "write (this one was downloaded, or is named in another); say that on the command line"
                )
