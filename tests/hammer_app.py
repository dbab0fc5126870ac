"""Requests to the application without end: good ones, bad values, wrong files, huge images, users who leave early.

    python tests/hammer_app.py --requests 1000 --users 8

Each is answered by what was asked for or by a sentence, none is lost, no traceback is shown, the server's memory at the
end is within 10 % of that after the first hundred, and it still draws the images that it drew at the start.
"""

import argparse
import base64
import collections
import http.client
import io
import json
import random
import socket
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from app_client import Client, Served, served
from fixtures import write_fashion_folder
from PIL import Image

FIRST = 100  # requests after which memory is first measured
PATHS = (
    "/gradio_api/file=/etc/passwd",
    "/static/../../etc/passwd",
    "/gradio_api/upload",
    "/x" * 500,
    "/proxy=http://a/",
)
BODIES = (b"", b"{", b"null", b"[" * 9999, b"\xff" * 100, b'{"fn_index": 10000, "data": [], "session_hash": "a"}')
BAD_VALUES = (
    None,
    -1,
    2**70,
    "",
    "x" * 5000,
    [1],
    {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    True,
    1e308,
)


def picture(kind: str, rng: random.Random) -> str:
    """A data URL of one of these kinds."""
    content = b"no image at all"
    if kind in ("small", "large"):
        size = (40, 60) if kind == "small" else (4000, 3000)
        content = _png(Image.new("RGB", size, (rng.randrange(256), 90, 90)))
    elif kind == "cut":
        content = _png(Image.effect_noise((200, 200), 50))[: rng.randrange(8, 20_000)]
    elif kind == "announced":
        header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    elif kind == "huge":  # 144 million pixels in a file of 18 kB
        content = _png(Image.new("1", (12_000, 12_000)))
    elif kind == "bytes":
        content = rng.randbytes(12_000_000)
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def draw(client: Client, rng: random.Random) -> str:
    event = client.event("Draw images")
    fields = client.fields(event)
    fields[2], fields[8] = rng.randrange(1, 5), rng.randrange(1000)
    return _asked(client, event["id"], fields)


def edit(client: Client, rng: random.Random) -> str:
    event = client.event("Draw the marked part")
    fields = client.fields(event)
    marks = " ".join(str(cell) for cell in range(16) if rng.random() < 0.5)
    fields[1], fields[2], fields[4] = picture("small", rng), marks, 2
    return _asked(client, event["id"], fields)


def reconstruct(client: Client, rng: random.Random) -> str:
    event = client.event("Reconstruct again")
    fields = client.fields(event)
    fields[1] = picture(
        rng.choice(("small", "small", "small", "large", "cut", "announced", "huge", "text", "bytes")), rng
    )
    return _asked(client, event["id"], fields)


def tokens(client: Client, rng: random.Random) -> str:
    event = client.event("Decode these codes")
    fields = client.fields(event)
    fields[1] = " ".join(str(rng.randrange(33)) for _ in range(rng.choice((15, 16, 16, 16))))
    return _asked(client, event["id"], fields)


def bad_values(client: Client, rng: random.Random) -> str:
    labels = ("Draw images", "Draw the marked part", "Take this test image", "Count", "Show the map of all codes")
    event = client.event(rng.choice(labels))
    fields = client.fields(event)
    fields[rng.randrange(len(fields))] = rng.choice(BAD_VALUES)
    return _asked(client, event["id"], fields[: rng.choice((len(fields), len(fields), 1))])


def none_of_the_page(client: Client, rng: random.Random) -> str:
    if rng.random() < 0.5:
        status, body = client.get(rng.choice(PATHS))
    else:
        status, body = client.send("POST", "/gradio_api/queue/join", rng.choice(BODIES))
    assert 400 <= status < 500, (status, body)
    return _sentence(str(json.loads(body)["detail"]))


def leave(client: Client, rng: random.Random) -> str:
    """Ask, and go before the answer is there, or before the question is complete."""
    event = client.event("Draw images")
    fields = client.fields(event)
    fields[2] = 8
    if rng.random() < 0.3:
        with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
            head = b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
            connection.sendall(head + b"{" * rng.randrange(4000))
        return "left"
    assert client.join(event["id"], fields)[0] in (200, 503)
    if rng.random() < 0.7:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
        connection.request("GET", f"/gradio_api/queue/data?session_hash={client.session}")
        if rng.random() < 0.5:
            connection.getresponse().read1(10)
        connection.close()
    return "left"


def _asked(client: Client, event: int, fields: list[Any]) -> str:
    answer = client.ask(event, fields)
    if answer.data is not None:
        assert "Traceback" not in str(answer.data)
        return "done"
    return _sentence(answer.sentence)


def _sentence(text: str) -> str:
    assert text, "refused without a word"
    assert "Traceback" not in text, text
    assert len(text) < 1000, text
    return "refused"


KINDS: tuple[Callable[[Client, random.Random], str], ...] = (
    draw, edit, reconstruct, reconstruct, tokens, bad_values, bad_values, none_of_the_page, leave, leave,
)  # fmt: skip


@dataclass
class Report:
    """What came of the requests; memory in bytes, after the first hundred and at the end."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    first_memory: int = 0
    last_memory: int = 0

    @property
    def growth(self) -> float:
        """Of the memory, as a share of that after the first hundred."""
        return self.last_memory / self.first_memory - 1


def hammer(app: Served, requests: int, users: int, seed: int = 0) -> Report:
    """Send requests, several users at a time, each request from a page of its own or from one that is open already."""
    report, server = Report(), psutil.Process(app.process.pid)
    before = _drawn(app)

    def one(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        kind = rng.choice(KINDS)
        try:
            report.outcomes[kind(Client(app.port), rng)] += 1
        except Exception as error:  # whatever a request ends with that is no answer is what this is looking for
            report.failures.append(f"request {number}, {kind.__name__}: {type(error).__name__}: {str(error)[:300]}")

    started = time.perf_counter()
    for numbers in (range(min(FIRST, requests)), range(FIRST, requests)):
        with ThreadPoolExecutor(users) as pool:
            list(pool.map(one, numbers))
        time.sleep(1)  # those who have left are noticed
        report.first_memory = report.first_memory or server.memory_info().rss
    report.seconds, report.last_memory = time.perf_counter() - started, server.memory_info().rss
    if _drawn(app) != before:
        report.failures.append("the images of the first request are drawn otherwise after the last")
    return report


def _drawn(app: Served) -> list[Any]:
    client = Client(app.port)
    event = client.event("Draw images")
    answer = client.ask(event["id"], client.fields(event))
    assert answer.data is not None, answer.sentence
    return answer.data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        write_fashion_folder(data)
        app = Path(folder) / "app"
        app.mkdir()
        with served(app, data=data) as running:
            report = hammer(running, options.requests, options.users, options.seed)
    print(*report.failures, sep="\n")
    print(
        f"{report.outcomes.total()} of {options.requests} requests answered in {report.seconds:.0f} s: "
        f"{dict(report.outcomes)}; {report.first_memory / 2**20:.0f} MiB after the first {FIRST}, "
        f"{report.last_memory / 2**20:.0f} MiB at the end ({report.growth:+.1%})"
    )
    raise SystemExit(bool(report.failures) or report.growth > 0.1)


if __name__ == "__main__":
    main()
