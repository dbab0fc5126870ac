"""Bars of progress: `wvq.tokenizer.progress`."""

import io
import sys

import pytest

from wvq.tokenizer import progress
from wvq.tokenizer.progress import draw_on_line, progress_bar, shares_output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_the_first_and_the_last_state_a_line_each(capsys: pytest.CaptureFixture[str]):
    with progress_bar(total=1000, desc="training") as bar:
        for loss in range(1000):
            bar.update()
            bar.set_postfix(loss=loss)
    log = capsys.readouterr().err
    first, last = log.splitlines()
    assert first.startswith("training:   0%|")
    assert last.startswith("training: 100%|")
    assert "1000/1000" in last
    assert "loss=999" in last
    assert "\r" not in log


def test_a_log_has_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress_bar(total=10, mininterval=0, miniters=1) as bar:
        for _ in range(10):
            now += progress.LINE_SECONDS / 2
            bar.update()
    shown = [line.split("|")[2].split()[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["0/10", "2/10", "4/10", "6/10", "8/10", "10/10", "10/10"]


def test_what_is_said_beside_a_bar_in_a_log_is_a_line(capsys: pytest.CaptureFixture[str]):
    with progress_bar(total=2) as bar:
        bar.write("step 1: fine")
        bar.write("step 1: odd", file=sys.stderr)
    printed = capsys.readouterr()
    assert printed.out == "step 1: fine\n"
    assert [line.partition(":")[0] for line in printed.err.splitlines()] == [
        "  0%|          | 0/2 [00",
        "step 1",
        "  0%|          | 0/2 [00",
    ]


def test_a_bar_that_is_disabled_says_nothing(capsys: pytest.CaptureFixture[str]):
    for disable in (True, None):  # None: where there is no terminal
        assert list(progress_bar(range(3), disable=disable)) == [0, 1, 2]
    assert not capsys.readouterr().err


def test_a_terminal_is_drawn_over_and_several_processes_have_a_line_each(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar(total=3) as bar:
        assert bar.pos == 0
    assert "\r" in terminal.getvalue()
    monkeypatch.setattr(progress, "_line", None)  # as it is again afterwards
    assert not shares_output()
    draw_on_line(2)
    assert shares_output()
    with progress_bar(total=3) as bar:
        assert abs(bar.pos) == 2
