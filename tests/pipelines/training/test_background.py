"""One piece of work at a time beside the loop; what it raises is raised where somebody waits."""

import threading
from pathlib import Path

import pytest
from toy_run_folders import Process, Training

from wvq.pipelines.training.checkpoints.background import Background


def test_work_goes_on_beside_and_the_next_waits_for_it():
    background, go_on, done = Background(), threading.Event(), []
    background.start(lambda: (go_on.wait(60), done.append("first")))
    assert done == []
    threading.Timer(0.05, go_on.set).start()
    background.start(lambda: done.append("second"))
    assert done[0] == "first"
    background.wait()
    assert done == ["first", "second"]


def fail() -> None:
    raise OSError("no space left")


def test_an_error_is_raised_once_by_whoever_waits_next():
    background = Background()
    for wait in (background.wait, lambda: background.start(int)):
        background.start(fail)
        with pytest.raises(OSError, match="no space left"):
            wait()
        background.wait()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_leaving_a_run_waits_unless_it_is_to_stop_at_once(error: type[BaseException], tmp_path: Path):
    run, go_on, done = Process(Training(output_dir=str(tmp_path / "run"))).run, threading.Event(), []
    with pytest.raises(error), run:  # noqa: PT012 (the work must begin inside)
        run._background.start(lambda: (go_on.wait(60), done.append("written")))
        if error is RuntimeError:
            threading.Timer(0.05, go_on.set).start()
        raise error
    assert bool(done) == (error is RuntimeError)
    go_on.set()
    run.wait()
    Process(Training(output_dir=str(tmp_path / "run")))  # the lock is released
