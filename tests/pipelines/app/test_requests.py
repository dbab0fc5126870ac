"""Requests as the page makes them, and as it does not: answered by what the pipeline draws, or by a sentence."""

import base64
import io
import json
import re
import socket
from typing import Any

import pytest
import torch
from app_client import Client, Served
from app_models import no_report, tiny_model
from PIL import Image

from wvq.pipelines.app.drawing import draw
from wvq.pipelines.app.uploads import data_url
from wvq.pipelines.app.values import sampling_options


@pytest.fixture
def client(served_app: Served) -> Client:
    return Client(served_app.port)


def drawing(client: Client, **changes: Any) -> tuple[int, list[Any]]:
    """The event that draws, and its fields with some of them changed."""
    event = client.event("Draw images")
    fields = client.fields(event)
    for position, name in enumerate(
        ("name", "of_class", "number", "guidance", "temperature", "k", "p", "min_p", "seed")
    ):
        fields[position] = changes.get(name, fields[position])
    return event["id"], fields


def shown(html: str) -> list[Image.Image]:
    urls = re.findall(r'<img src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(url))) for url in urls]


def test_the_gallery_shows_what_the_pipeline_draws(client):
    answer = client.ask(*drawing(client, of_class="Bag", number=3, seed=5))
    images, _ = draw(tiny_model(), "Bag", 3, sampling_options(1.5, 1, 0, 1, 0, 5), no_report)
    assert answer.data is not None
    assert [picture.tobytes() for picture in shown(answer.data[0])] == [
        image.permute(1, 2, 0).numpy().tobytes() for image in images
    ]
    assert answer.progress > 0
    more = client.ask(*drawing(client, of_class="Bag", number=5, seed=5))
    assert more.data is not None
    assert [picture.tobytes() for picture in shown(more.data[0])][:3] == [p.tobytes() for p in shown(answer.data[0])]


def test_two_pipelines_draw_with_the_same_seeds(client):
    event = client.event("Draw with both")
    answer = client.ask(event["id"], client.fields(event))
    assert answer.data is not None
    one, two = map(shown, answer.data)
    alone = client.ask(*drawing(client, number=len(one)))
    assert alone.data is not None
    assert [picture.tobytes() for picture in one] == [picture.tobytes() for picture in shown(alone.data[0])]
    assert [picture.tobytes() for picture in one] != [picture.tobytes() for picture in two]
    assert len(one) == len(two)


BAD = [
    ({"number": 0}, "number of images is 0"),
    ({"number": 65}, "number of images is 65; it must be a whole number from 1 to 64"),
    ({"number": None}, "number of images is empty"),
    ({"number": "many"}, "a field has a value that this page does not send"),
    ({"temperature": -1}, "temperature"),
    (
        {"temperature": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}},
        "a field has a value",
    ),
    ({"guidance": None}, "guidance_scale is empty"),
    ({"p": 0}, "top_p"),
    ({"k": -3}, "top_k"),
    ({"seed": 2**40}, "seed"),
    ({"of_class": "Bagg"}, "did you mean Bag"),
    ({"of_class": ["Bag"]}, "a field has a value"),
    ({"name": "elsewhere"}, "pipeline 'elsewhere'|not in the list|field has a value"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=lambda value: str(value)[:30])
def test_bad_values_are_answered_by_a_sentence(client, changes, sentence):
    answer = client.ask(*drawing(client, **changes))
    assert answer.data is None
    assert re.search(sentence, answer.sentence), answer.sentence
    assert "Traceback" not in answer.sentence
    assert len(answer.sentence) < 300


def test_a_picture_is_a_data_url_and_nothing_else(client):
    event = client.event("Reconstruct again")
    for given in ("/etc/passwd", "http://127.0.0.1:1/", "data:image/png;base64,AAAA", {"path": "/etc/passwd"}, None):
        answer = client.ask(event["id"], [client.fields(event)[0], given, "Bag"])
        assert answer.data is None
        assert "picture" in answer.sentence or "a field has" in answer.sentence, answer.sentence
    image = torch.randint(256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    answer = client.ask(event["id"], [client.fields(event)[0], data_url(image), "Bag"])
    assert answer.data is not None
    assert "PSNR" in answer.data[1]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/file=http://127.0.0.1/", "/proxy=http://a/",
        "/gradio_api/proxy=http://127.0.0.1/", "/static/../../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/setup.py",
        "/static//etc/passwd", "/gradio_api/info", "/docs", "/monitoring", "/gradio_api/vibe-code/", "/gradio_api/runs",
        "/gradio_api/stream/a/b/c/playlist-file", "/custom_component/1/client/component/index.js",
    ],
)  # fmt: skip
def test_no_file_is_opened_that_a_user_names(client, path):
    status, body = client.get(path)
    assert status in (403, 404)
    assert b"root:" not in body
    assert len(body) < 200


def test_nothing_is_uploaded_and_no_event_runs_outside_the_queue(client):
    for path in ("/gradio_api/upload", "/gradio_api/run/show", "/gradio_api/call/show", "/gradio_api/component_server"):
        assert client.send("POST", path, b"{}")[0] == 404


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"data": []}', b"\xff\xfe", b"null", b"[" * 5000],
    ids=lambda body: str(body)[:20],
)
def test_a_request_that_is_none_is_answered(client, body):
    status, answer = client.send("POST", "/gradio_api/queue/join", body)
    assert 400 <= status < 500
    assert b"Traceback" not in answer
    assert "detail" in json.loads(answer)


def test_an_event_that_does_not_exist_is_answered(client):
    for event in (10**6, -1, "show", None, 2**70):
        status, answer = client.join(event, [])
        assert 400 <= status < 500, (event, answer)
        assert json.loads(answer)["detail"]


def test_too_few_and_too_many_values_are_answered(client):
    event = client.event("Draw images")["id"]
    for data in ([], [1], {}, "text", [None] * 500, None):
        answer = client.ask(event, data)
        assert answer.data is None
        assert answer.sentence
        assert "Traceback" not in answer.sentence


def test_a_long_request_is_read_no_further(client):
    status, answer = client.send("POST", "/gradio_api/queue/join", b" " * 3_000_000)
    assert (status, "too large" in json.loads(answer)["detail"]) == (413, True)
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:  # one that tells no length
        connection.sendall(
            b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        received = b""
        try:
            for _ in range(64):
                connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
        except OSError:
            pass
        received = connection.recv(4096)
    assert b" 413 " in received.splitlines()[0], received


def test_another_sites_name_is_refused(client):
    assert client.send("GET", "/", headers={"Host": "example.org"})[0] == 403
    assert client.send("GET", "/", headers={"Host": f"localhost:{client.port}"})[0] == 200


def test_nobody_else_is_asked(client):
    page = client.get("/")[1].decode()
    styles = client.get("/theme.css")[1].decode()
    assert 'analytics_enabled":false' in page.replace(" ", "")
    assert not re.findall(r'(?:src|href)="https?://[^"]*', page)
    assert "http" not in re.sub(r"http://www\.w3\.org/[\w/]*", "", styles)
