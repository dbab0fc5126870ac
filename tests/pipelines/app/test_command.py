"""`wvq app`: its options, and what it refuses before it serves anything."""

import importlib.util
import socket
from pathlib import Path

import pytest
from app_models import tiny_model

from wvq.pipelines.app.command import Application, show
from wvq.pipelines.command_line import main, parse
from wvq.tokenizer import InputError


def test_one_pipeline_or_two():
    assert parse("app", ["--pipeline", "one"]) == Application(pipeline=("one",))
    both = parse("app", ["--pipeline", "one", "--pipeline=two", "--data.source", "photos"])
    assert both.pipeline == ("one", "two")
    assert both.data is not None
    assert both.data.source == "photos"
    assert (both.host, both.port) == ("127.0.0.1", 7860)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pipeline=a", "--pipeline=b", "--pipeline=c"], "give one, or two different ones"),
        (["--pipeline=a", "--pipeline=a"], "give one, or two different ones"),
        (["--pipeline=[]"], "pipeline is"),
        (["--port=70000"], "port is 70000"),
        (["--limits.max-images=0"], "max_images is 0"),
        (["--limits.max-seconds=nan"], "max_seconds"),
    ],
)
def test_bad_options_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        parse("app", arguments)


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'wvq\[app\]'"):
        show(Application())


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny_model().pipeline.save_pretrained(tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit):
            main(["app", f"--pipeline={tmp_path / 'model'}", f"--port={port}"])
    said = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1 port {port}" in said
    assert "Traceback" not in said


def test_a_pipeline_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere"):
        show(Application(pipeline=(str(tmp_path / "nowhere"),), port=0))
