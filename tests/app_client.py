"""The application in a process of its own, and requests to it as its page makes them."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from tiny_pipelines import tiny_pipeline


def write_pipelines(folder: Path) -> list[Path]:
    """Two tiny pipelines whose priors differ."""
    first, second = tiny_pipeline(), tiny_pipeline()
    for parameter in second.prior.parameters():
        parameter.data *= 1.2
    for name, pipeline in (("one", first), ("two", second)):
        pipeline.save_pretrained(folder / name)
    return [folder / "one", folder / "two"]


class Served(NamedTuple):
    """Where it listens, and its process; what it writes to stderr is in a file."""

    port: int
    process: subprocess.Popen[str]
    errors: Path


@contextmanager
def served(folder: Path, *options: str, data: Path | None = None) -> Iterator[Served]:
    """`wvq app` on two tiny pipelines in an empty folder; on leaving it is interrupted, and ends well.

    Raises:
        AssertionError: for a file that it has written, or a traceback.
    """
    pipelines = [f"--pipeline={path}" for path in write_pipelines(folder)]
    source = [] if data is None else [f"--data.source={data}"]
    errors = folder / "stderr.txt"
    main = "from wvq.pipelines.command_line import main; main()"
    command = [sys.executable, "-c", main, "app", *pipelines, *source, "--port=0", *options]
    files = folder / "files"
    files.mkdir()
    environment = os.environ | {"GRADIO_TEMP_DIR": str(files)}
    with errors.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, cwd=folder, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, errors.read_text()
        yield Served(int(line.split("127.0.0.1:")[1].split("/")[0]), process, errors)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0, errors.read_text()
        assert "Traceback" not in errors.read_text(), errors.read_text()
        assert not [path for path in files.rglob("*") if path.is_file()]
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Answer(NamedTuple):
    """What came of a request: its data, or a sentence; and how often its progress was told."""

    data: list[Any] | None
    sentence: str
    progress: int


class Client:
    """Requests of one page. Not for several threads."""

    def __init__(self, port: int, timeout: float = 120):
        self.port, self.timeout = port, timeout
        self.session = uuid4().hex
        config = json.loads(self.get("/config")[1])
        self.components = {part["id"]: part for part in config["components"]}
        self.events = config["dependencies"]

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of a plain request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} | (headers or {}))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        return self.send("GET", path)

    def event(self, label: str, number: int = 0) -> dict[str, Any]:
        """The event of the button with this text; `number` counts those of one text in order."""
        found = [
            event
            for event in self.events
            for target, _ in event["targets"]
            if self.components.get(target, {}).get("props", {}).get("value") == label
        ]
        return found[number]

    def fields(self, event: dict[str, Any]) -> list[Any]:
        """What the fields of an event hold when the page is opened."""
        return [self.components[part]["props"].get("value") for part in event["inputs"]]

    def join(self, event: int, data: Any) -> tuple[int, bytes]:
        """Ask for an event; its answer comes to who listens."""
        request = {"data": data, "fn_index": event, "session_hash": self.session, "event_data": None, "trigger_id": 1}
        return self.send("POST", "/gradio_api/queue/join", json.dumps(request).encode())

    def ask(self, event: int, data: Any) -> Answer:
        """Ask and wait for the answer."""
        status, body = self.join(event, data)
        if status != 200:
            return Answer(None, str(json.loads(body)["detail"]), 0)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        try:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={self.session}")
            progress = 0
            for line in connection.getresponse():
                if not line.startswith(b"data:"):
                    continue
                message = json.loads(line[5:])
                progress += message["msg"] == "progress"
                if message["msg"] == "process_completed":
                    output = message["output"]
                    data = output.get("data") if message["success"] else None
                    return Answer(data, str(output.get("error") or ""), progress)
                assert message["msg"] != "unexpected_error", message
            raise AssertionError("the answer has ended before it was complete")
        finally:
            connection.close()
