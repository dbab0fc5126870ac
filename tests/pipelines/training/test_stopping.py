"""Signals: the run stops after its step, with a code that says which signal it was."""

import os
import signal
from collections.abc import Iterator

import pytest
from accelerate import Accelerator

from wvq.pipelines.training import stopping
from wvq.pipelines.training.stopping import SIGNALS, stop_request


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_asks_to_stop_and_leaves_with_its_code(number: signal.Signals, capsys: pytest.CaptureFixture[str]):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as leaving, stop_request(Accelerator()) as stop:  # noqa: PT012 (the signal must come inside)
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.requested()
        stop.exit(2)
    assert leaving.value.code == 128 + number
    assert "stopped after step 2" in capsys.readouterr().err
    assert signal.getsignal(number) == before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as in a terminal; a job in the background of a script starts with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_later_on_stops_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stopping, "SAME_SIGNAL_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt), stop_request(Accelerator()):  # noqa: PT012 (the signal must come inside)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_one_signal_that_comes_twice_is_one():
    """A terminal and a launcher both pass Ctrl-C on."""
    with stop_request(Accelerator()) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested()
