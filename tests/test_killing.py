"""Both stages, killed at random moments, end as if nobody had disturbed them."""

from pathlib import Path

import pytest
from kill_and_compare import compare


@pytest.mark.parametrize("world", [1, 2])
def test_a_killed_run_ends_as_the_undisturbed_one(world: int, tmp_path: Path):
    assert list(compare(3, world, seed=world, steps=12, work=tmp_path))[-1].startswith(
        f"{world} process(es), 3 kills: "
    )


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_twenty_kills(world: int, tmp_path: Path):
    assert list(compare(20, world, seed=0, steps=48, work=tmp_path))[-1].startswith(f"{world} process(es), 20 kills: ")
