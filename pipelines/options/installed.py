"""Recipes that are installed with the package: `wvq recipes` lists them, `--config NAME` finds them by their names."""

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from wvq.tokenizer.errors import InputError

FACTS = ("Command", "Source", "Expected", "Hardware")
"""What the comment at the top of a recipe says after its first line, each in a line or more of its own."""


class Recipe(NamedTuple):
    """An installed recipe: its file, what it is in a line, and its `FACTS`."""

    path: Path
    summary: str
    facts: dict[str, str]

    @property
    def command(self) -> str:
        """The command that it is for, without "wvq"."""
        return self.facts["Command"].split()[1]


@dataclass(frozen=True)
class Recipes:
    """The recipes that come with the package."""

    show: str | None = None
    """Name of the one to print, to be kept as a file and changed; by default all are listed."""


def recipes(config: Recipes) -> str:
    """The list of installed recipes, or the text of one.

    Raises:
        InputError: for a name that there is not.
    """
    installed = installed_recipes()
    if config.show is not None:
        if (name := config.show.removesuffix(".yaml")) not in installed:
            raise InputError(f"show is '{config.show}'{_near(name, installed)}; valid are {', '.join(installed)}")
        return installed[name].path.read_text("utf-8").rstrip("\n")
    width = max(map(len, installed))
    lines = []
    for name, recipe in installed.items():
        lines += [f"{name:<{width}}  {recipe.summary}", f"{'':<{width}}  {recipe.facts['Hardware']}"]
    return "\n".join([*lines, "", "wvq recipes --show NAME prints one, with the command that runs it."])


def installed_recipes() -> dict[str, Recipe]:
    """By name, such as paper/ffhq-vqvae, in alphabetical order."""
    folder = Path(str(files("wvq.pipelines") / "recipes"))
    return {path.relative_to(folder).with_suffix("").as_posix(): _read(path) for path in sorted(folder.rglob("*.yaml"))}


def _read(path: Path) -> Recipe:
    comment = re.match(r"(?:#.*\n)+", path.read_text("utf-8"))
    assert comment is not None, f"{path} does not begin with what it is"
    summary, *lines = (line.removeprefix("#").strip() for line in comment[0].splitlines())
    facts: dict[str, str] = {}
    for line in lines:
        name, colon, said = line.partition(": ")
        if colon and name in FACTS:
            facts[name] = said
        else:
            last = next(reversed(facts))
            facts[last] = f"{facts[last]} {line}"
    return Recipe(path, summary, facts)


def with_installed(arguments: Sequence[str], command: str) -> list[str]:
    """A command line in which names of installed recipes after --config are the paths of their files.

    A local file of such a name is what it was, which is said on standard error.

    Raises:
        InputError: for the recipe of another command, and for what is no file and nearly the name of a recipe.
    """
    found = []
    for before, argument in pairwise(["", *arguments]):
        if argument.startswith("--config="):
            found.append(f"--config={_resolved(argument.partition('=')[2], command)}")
        else:
            found.append(_resolved(argument, command) if before == "--config" else argument)
    return found


def _resolved(given: str, command: str) -> str:
    name = given.removesuffix(".yaml")
    if not re.fullmatch(r"[\w./~-]+", given):  # the options themselves
        return given
    installed = installed_recipes()
    if Path(given).expanduser().exists():
        if name in installed:
            print(f"--config {given} is the file in this folder, not the installed recipe of its name", file=sys.stderr)
        return given
    if name in installed:
        recipe = installed[name]
        if recipe.command != command:
            raise InputError(f"config is '{given}', a recipe of `wvq {recipe.command}`; this is `wvq {command}`")
        return str(recipe.path)
    if near := _near(name, installed):
        raise InputError(f"config is '{given}', neither a file nor a recipe{near}; `wvq recipes` lists them")
    return given


def _near(name: str, names: Sequence[str] | dict[str, Recipe]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
