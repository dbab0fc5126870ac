"""Recipes: YAML of plain values. They cannot name code to run, nor write outside the folder a command is started in."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from wvq.tokenizer.errors import InputError

MAX_VALUES = 100_000
_CODE = ("class_path", "init_args", "dict_kwargs")  # what jsonargparse would import and call
_WRITTEN = ("output_dir", "output", "tokens_dir")


def allow_recipes(arguments: Sequence[str]) -> str:
    """Make `load_recipe` known to jsonargparse, for a command line (underscores in its options); returns the
    `parser_mode` of the parser that is to use it."""
    given = {argument.removeprefix("--").partition("=")[0] for argument in arguments if argument.startswith("--")}
    set_loader("recipe", partial(load_recipe, given=given), (yaml.YAMLError,))
    return "recipe"


def load_recipe(text: str, given: Collection[str] = ()) -> Any:
    """The values in a recipe, or in one option of the command line: what jsonargparse's own loader makes of them.

    Args:
        text: YAML.
        given: options of the command line, which replace the recipe's.

    Raises:
        InputError: for the name of a class, a folder to write into that is absolute or leaves the working folder and
            is not among `given`, and references that unfold to more than `MAX_VALUES` values.
    """
    content = get_loader("yaml")(text)
    pending, count = [("", content)], 0
    while pending:
        prefix, value = pending.pop()
        count += 1
        if count > MAX_VALUES:
            raise InputError(f"the recipe unfolds to more than {MAX_VALUES:,} values")
        if isinstance(value, dict):
            _check(value, prefix, given)
            pending.extend((f"{prefix}{key}.", item) for key, item in value.items())
        elif isinstance(value, list):
            pending.extend((prefix, item) for item in value)
    return content


def _check(options: dict[Any, Any], prefix: str, given: Collection[str]) -> None:
    for key, value in options.items():
        name = str(key).rpartition(".")[2]
        if name in _CODE:
            raise InputError(f"the recipe has the key '{key}', which names code to run; valid are a command's options")
        if name in _WRITTEN and isinstance(value, str) and f"{prefix}{key}" not in given:
            path = PurePath(value)
            if path.is_absolute() or ".." in path.parts or value.startswith("~"):
                raise InputError(
                    f"the recipe has {key} = {value}, outside the working folder; say that on the command line"
                )
