"""What is swept: lists of values for sampling options, every combination of them a setting."""

import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from wvq.pipelines.generation import SamplingOptions
from wvq.prior.guidance import GuidanceSchedule
from wvq.tokenizer.errors import InputError

_SAME_FOR_ALL = {"seed", "batch_size"}  # of all settings of a sweep: one is shared on purpose, one changes no image


@dataclass(frozen=True)
class Grid:
    """Lists of values of `SamplingOptions`, by its fields; what has no list is the same in every setting."""

    guidance_scale: tuple[float, ...] = ()
    """Classifier-free guidance; 1 for none."""
    temperature: tuple[float, ...] = ()
    """0 is greedy."""
    top_k: tuple[int, ...] = ()
    """The most probable codes kept; 0 for all."""
    top_p: tuple[float, ...] = ()
    """The smallest set of codes with this probability is kept."""
    min_p: tuple[float, ...] = ()
    """Codes below this share of the highest probability are dropped."""
    guidance_schedule: tuple[GuidanceSchedule, ...] = ()
    """How guidance grows over the positions of an image."""
    num_passes: tuple[int, ...] = ()
    """Passes in which an image is drawn, with a prior of free order; 0 for as many as it has tokens."""

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            object.__setattr__(self, name, tuple(values))
        self.settings(SamplingOptions())  # checks each value

    @property
    def given(self) -> bool:
        return any(vars(self).values())

    def settings(self, sampling: SamplingOptions) -> list[SamplingOptions]:
        """All combinations, each once, the last field varying fastest; `sampling` for what has no list.

        Raises:
            InputError: for a value out of its range.
        """
        lists = {name: values for name, values in vars(self).items() if values}
        chosen = (dict(zip(lists, values, strict=True)) for values in product(*lists.values()))
        return list(dict.fromkeys(dataclasses.replace(sampling, **values) for values in chosen))


@dataclass(frozen=True)
class SweepOptions:
    """A grid, and by how many images its settings are told apart."""

    grid: Grid = field(default_factory=Grid)
    """Lists of values of sampling options; every combination is a setting."""
    num_generated: int = 5_000
    """Images generated in each setting, the classes in equal shares, image i from the same random numbers in all."""
    num_reference: int = 10_000
    """Images that they are compared with, evenly spaced among those there are; all if these are fewer."""

    def __post_init__(self) -> None:
        for name in ("num_generated", "num_reference"):
            if getattr(self, name) < 2:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 2")


def setting_values(setting: SamplingOptions) -> dict[str, Any]:
    """The options of a setting without what all settings share, JSON-able."""
    values = {name: value for name, value in dataclasses.asdict(setting).items() if name not in _SAME_FOR_ALL}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def varied_options(settings: Sequence[SamplingOptions]) -> list[str]:
    """The options in which settings differ, in their order."""
    values = [setting_values(setting) for setting in settings]
    return [name for name in values[0] if any(other[name] != values[0][name] for other in values)]


def in_words(setting: SamplingOptions, options: Sequence[str]) -> str:
    """Some options of a setting: "guidance scale 1.5, top p 0.9"."""
    return ", ".join(f"{name.replace('_', ' ')} {option_text(getattr(setting, name))}" for name in options)


def option_text(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else json.dumps(value)


def sampling_arguments(setting: SamplingOptions) -> str:
    """What sets these options on the command line: " --guidance-scale 1.5", "" where all have their defaults."""
    changed = {n: v for n, v in dataclasses.asdict(setting).items() if v != getattr(SamplingOptions, n)}
    return "".join(f" --{n.replace('_', '-')} {shlex.quote(option_text(value))}" for n, value in changed.items())
