"""The clock of a comparison: seconds that add up over interruptions."""

from pathlib import Path

import pytest

from wvq.eval.comparison.clock import Clock


def test_clock_adds_up_over_interruptions(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "seconds.json")
    clock.add("training", 1.5)
    assert list(clock.each("sampling", iter("abc"))) == ["a", "b", "c"]
    again = Clock(tmp_path / "seconds.json")
    again.add("training", 2.0)
    assert again.seconds["training"] == 3.5
    assert 0 <= again.seconds["sampling"] < 1
    with pytest.raises(RuntimeError), again.measure("training"):
        raise RuntimeError
    assert Clock(tmp_path / "seconds.json").seconds["training"] == 3.5
