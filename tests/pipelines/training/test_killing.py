"""Both stages, killed at random moments, end as if nobody had disturbed them."""

from pathlib import Path

import pytest
from kill_and_compare import compare

SHORT, LONG = (3, 12), (20, 48)  # kills, steps


@pytest.mark.parametrize(
    ("world", "changes", "kills", "steps"),
    [
        *((world, {}, *SHORT) for world in (1, 2)),
        *((2, {name: True}, *SHORT) for name in ("streaming", "adversarial")),
        *(pytest.param(world, {}, *LONG, marks=pytest.mark.slow) for world in (1, 2)),
        pytest.param(2, {"streaming": True}, *LONG, marks=pytest.mark.slow),
        *(pytest.param(world, {"adversarial": True}, *LONG, marks=pytest.mark.slow) for world in (1, 2)),
    ],
)
def test_a_killed_run_ends_as_the_undisturbed_one(
    world: int, changes: dict[str, bool], kills: int, steps: int, tmp_path: Path
):
    *killed, outcome = compare(kills, world, seed=world, steps=steps, work=tmp_path, **changes)
    assert len(killed) >= 2 * kills // 3  # a loaded machine may be too late for the others
    assert outcome.endswith("files equal")
