"""Passes in chunks: what is kept, what is computed again, and whose results are never taken for another's."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import processes
import pytest
import torch
from torch import Tensor

from wvq.eval.features import chunks as module
from wvq.eval.features.chunks import Chunks
from wvq.pipelines.processes import this_process
from wvq.tokenizer import InputError
from wvq.tokenizer.storage.lock import Lock

ABOUT = {"images": "squares"}


class Squares:
    """The square of each image's number; stops after some chunks, if it is told to."""

    def __init__(self, stop_after: int | None = None):
        self.seen: list[range] = []
        self.stop_after = stop_after

    def __call__(self, ranges: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        for numbers in ranges:
            if len(self.seen) == self.stop_after:
                raise RuntimeError("pulled the plug")
            self.seen.append(numbers)
            yield {"squares": torch.tensor(list(numbers)) ** 2}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_SIZE", 4)


def run(work: Squares, folder: Path | None, count: int = 10, **about: str) -> Tensor:
    chunks = Chunks(folder).run("squares", ABOUT | about, count, work, progress=False)
    return torch.cat([chunk["squares"] for chunk in chunks])


@pytest.mark.parametrize("keep", [False, True])
def test_all_chunks_come_in_order(keep: bool, tmp_path: Path) -> None:
    work = Squares()
    assert run(work, tmp_path / "kept" if keep else None).tolist() == [i**2 for i in range(10)]
    assert work.seen == [range(4), range(4, 8), range(8, 10)]
    assert (tmp_path / "kept").exists() == keep
    assert Chunks(tmp_path / "kept").run("squares", ABOUT, 0, work) == []


def test_an_interruption_costs_the_part_it_fell_into(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="pulled the plug"):
        run(Squares(stop_after=2), tmp_path)
    again = Squares()
    assert run(again, tmp_path).tolist() == [i**2 for i in range(10)]
    assert again.seen == [range(8, 10)]
    nothing = Squares()
    assert run(nothing, tmp_path).tolist() == [i**2 for i in range(10)]
    assert nothing.seen == []


def test_results_of_another_pass_are_never_taken(tmp_path: Path) -> None:
    run(Squares(), tmp_path)
    for count, about in ((11, {}), (10, {"images": "cubes"}), (10, {"device": "cuda"})):
        other = Squares()
        assert len(run(other, tmp_path, count, **about)) == count
        assert len(other.seen) == 3
    about = [json.loads(path.read_text()) for path in tmp_path.glob("*/about.json")]
    assert sorted((x["images"], x["count"]) for x in about) == [
        ("cubes", 10), ("squares", 10), ("squares", 10), ("squares", 11)
    ]  # fmt: skip


def test_only_what_was_used_is_cleared(tmp_path: Path) -> None:
    mine, other = Chunks(tmp_path / "kept"), Chunks(tmp_path / "kept")
    mine.run("squares", ABOUT, 10, Squares(), progress=False)
    other.run("squares", {"images": "others"}, 10, Squares(), progress=False)
    mine.clear()
    assert [json.loads(path.read_text())["images"] for path in tmp_path.glob("kept/*/about.json")] == ["others"]
    other.clear()
    assert not (tmp_path / "kept").exists()
    Chunks(None).clear()


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    run(Squares(), tmp_path)
    file = next(tmp_path.glob("*/00001.safetensors"))
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(
        InputError, match=r"00001\.safetensors is damaged or gone .*; remove its folder and start again"
    ):
        run(Squares(), tmp_path)


def test_a_pass_of_another_evaluation_is_waited_for_and_shared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = processes.start(1, hold_the_pass, tmp_path)[0]
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    mine = Squares()
    assert run(mine, tmp_path / "kept").tolist() == [i**2 for i in range(10)]
    assert mine.seen == [], "the other one has made it"
    assert "waiting for the same pass of another evaluation" in capsys.readouterr().err
    holder.join()
    assert holder.exitcode == 0


def hold_the_pass(folder: Path) -> None:
    """Make a pass slowly, and clear what is then in use by the other."""

    def work(ranges: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        (folder / "held").touch()
        time.sleep(2)
        yield from Squares()(ranges)

    module.CHUNK_SIZE = 4
    chunks = Chunks(folder / "kept")
    chunks.run("squares", ABOUT, 10, work, progress=False)


def test_what_another_evaluation_is_at_is_not_cleared(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path / "kept")
    chunks.run("squares", ABOUT, 10, Squares(), progress=False)
    holder = processes.start(1, hold_a_lock, tmp_path)[0]
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    chunks.clear()
    assert len(list(tmp_path.glob("kept/*/*.safetensors"))) == 3
    (tmp_path / "done").touch()
    holder.join()
    again = Chunks(tmp_path / "kept")
    nothing = Squares()
    again.run("squares", ABOUT, 10, nothing, progress=False)
    assert nothing.seen == []
    again.clear()
    assert not (tmp_path / "kept").exists()


def hold_a_lock(folder: Path) -> None:
    with Lock(next(folder.glob("kept/*")) / ".lock"):
        (folder / "held").touch()
        while not (folder / "done").exists():
            time.sleep(0.01)


def test_a_failure_in_one_process_is_one_in_all(tmp_path: Path) -> None:
    processes.run(2, fail_in_the_last, tmp_path)


def fail_in_the_last(folder: Path) -> None:
    """The only chunk of the second process has a bad image; with one chunk in all, the second has nothing to do."""
    state = this_process()

    def work(ranges: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        for numbers in ranges:
            if 4 in numbers:
                raise InputError("4.png is a bad image")
            yield {"squares": torch.tensor(list(numbers))}

    module.CHUNK_SIZE = 4
    assert state.num_processes == 2
    with pytest.raises(InputError, match=r"4\.png is a bad image"):
        Chunks(folder).run("squares", ABOUT, 8, work, progress=False)
    assert len(Chunks(folder).run("squares", ABOUT, 3, work, progress=False)) == 1


def test_the_bar_counts_images(capsys: pytest.CaptureFixture[str]) -> None:
    Chunks().run("squares", ABOUT, 10, Squares())
    assert "squares: 100%" in capsys.readouterr().err
