"""Recipes: YAML of plain values. They cannot name code to run, nor write outside the folder a command is started in."""

from pathlib import PurePath
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from wvq.tokenizer.errors import InputError

MAX_VALUES = 100_000
_CODE = ("class_path", "init_args", "dict_kwargs")  # what jsonargparse would import and call
_WRITTEN = ("output_dir", "output", "tokens_dir")


def allow_recipes() -> str:
    """Make `load_recipe` known to jsonargparse; returns the `parser_mode` of parsers that are to use it."""
    set_loader("recipe", load_recipe, (yaml.YAMLError,))
    return "recipe"


def load_recipe(text: str) -> Any:
    """The values in a recipe, or in one option of the command line: what jsonargparse's own loader makes of them.

    Raises:
        InputError: for the name of a class, a folder to write into that is absolute or leaves the working folder, and
            references that unfold to more than `MAX_VALUES` values.
    """
    content = get_loader("yaml")(text)
    pending, count = [content], 0
    while pending:
        value = pending.pop()
        count += 1
        if count > MAX_VALUES:
            raise InputError(f"the recipe unfolds to more than {MAX_VALUES:,} values")
        if isinstance(value, dict):
            _check(value)
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return content


def _check(options: dict[Any, Any]) -> None:
    for key, value in options.items():
        name = str(key).rpartition(".")[2]
        if name in _CODE:
            raise InputError(f"the recipe has the key '{key}', which names code to run; valid are a command's options")
        if name in _WRITTEN and isinstance(value, str):
            path = PurePath(value)
            if path.is_absolute() or ".." in path.parts or value.startswith("~"):
                raise InputError(
                    f"the recipe has {key} = {value}, outside the working folder; say that on the command line"
                )
