"""The grid: which settings it has, what it refuses, and what it says of them on the command line."""

import dataclasses
import shlex
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some

from wvq.eval.sweep.grid import Grid, SweepOptions, in_words, sampling_arguments, setting_values, varied_options
from wvq.pipelines.command_line import parse
from wvq.pipelines.generation import SamplingOptions
from wvq.tokenizer import InputError

floats = some.floats(0.01, 1)
sampling_options = some.builds(
    SamplingOptions,
    guidance_scale=some.floats(0, 20), temperature=floats, top_k=some.integers(0, 99), top_p=floats, min_p=floats,
    seed=some.integers(0, 9), guidance_schedule=some.sampled_from(["constant", "cosine"]),
    guidance_interval=some.sampled_from([None, (0, 4), (3, 7)]), dtype=some.sampled_from(["auto", "bfloat16"]),
    block_size=some.sampled_from(["auto", 1, 16]),
    num_passes=some.integers(0, 99),
)  # fmt: skip


def test_its_fields_are_lists_of_the_fields_of_the_sampling_options() -> None:
    single, lists = get_type_hints(SamplingOptions), get_type_hints(Grid)
    assert {name: get_args(hint) for name, hint in lists.items()} == {name: (single[name], ...) for name in lists}


def test_settings_are_all_combinations_each_once() -> None:
    base = SamplingOptions(seed=3, top_k=5)
    grid = Grid(guidance_scale=(1, 2), temperature=(0.9, 1), top_p=(1.0, 1))
    found = grid.settings(base)
    assert [(one.guidance_scale, one.temperature) for one in found] == [(1, 0.9), (1, 1), (2, 0.9), (2, 1)]
    assert {(one.seed, one.top_k, one.top_p) for one in found} == {(3, 5, 1.0)}
    assert varied_options(found) == ["guidance_scale", "temperature"]
    assert in_words(found[2], varied_options(found)) == "guidance scale 2, temperature 0.9"
    assert Grid().settings(base) == [base]
    assert (Grid().given, grid.given) == (False, True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guidance_scale": (1.0, -2.0)}, "guidance_scale is -2"),
        ({"top_p": (0.0,)}, "top_p is 0"),
        ({"top_k": (-1,)}, "top_k is -1"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Grid(**values)


def test_counts_below_two_are_refused() -> None:
    with pytest.raises(InputError, match="num_generated is 1; it must be at least 2"):
        SweepOptions(num_generated=1)
    with pytest.raises(InputError, match="num_reference is 0; it must be at least 2"):
        SweepOptions(num_reference=0)


@hypothesis_settings(deadline=None, max_examples=30)
@given(setting=sampling_options)
def test_the_command_line_of_a_setting_gives_the_setting(setting: SamplingOptions) -> None:
    parsed = parse("sample", shlex.split(sampling_arguments(setting)))
    names = [field.name for field in dataclasses.fields(SamplingOptions)]
    assert {name: getattr(parsed, name) for name in names} == dataclasses.asdict(setting)


@hypothesis_settings(deadline=None, max_examples=30)
@given(setting=sampling_options)
def test_a_setting_comes_back_from_json(setting: SamplingOptions) -> None:
    assert SamplingOptions(**setting_values(setting), seed=setting.seed) == setting


def test_lists_are_typed_as_other_lists_are() -> None:
    config = parse("sweep", ["--grid.guidance-scale", "[1, 1.5]", "--grid.top-k", "100", "--grid.temperature=0.9"])
    assert config.grid == Grid(guidance_scale=(1.0, 1.5), top_k=(100,), temperature=(0.9,))
    assert not parse("sweep", []).grid.given
    passes = parse("sweep", ["--grid.num-passes", "[8, 16]", "--sampling.guidance-scale", "2"])
    assert [(one.guidance_scale, one.num_passes) for one in passes.grid.settings(passes.sampling)] == [(2, 8), (2, 16)]
    assert not parse("compare", []).sweep.grid.given
    assert parse("compare", ["--sweep.grid.top-p", "[0.9, 1]"]).sweep.grid == Grid(top_p=(0.9, 1.0))
    with pytest.raises(InputError, match="guidance_scale"):
        parse("sweep", ["--grid.guidance-scale", "[1, much]"])
