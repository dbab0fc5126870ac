"""The server of the page: what of Gradio's routes it lets through, how much of a request it reads, and its end."""

import ctypes
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

import fastapi
import gradio as gr
import uvicorn

from wvq.tokenizer import InputError

from ..limits import Limits
from .page import Page, looks

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_GET = {
    "/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt",
    "/gradio_api/queue/data", "/gradio_api/startup-events",
}  # fmt: skip
_GET_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
_POST = {"/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"}
_M_MMAP_THRESHOLD = -3  # of malloc.h
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _TooLarge(Exception):
    """A request's body is longer than the server reads."""


class Guard:
    """Lets through what the page itself asks for, and answers everything else with a sentence.

    Gradio has more routes than this page uses: for uploads, for files by their path, for addresses of other servers,
    for a page that edits itself. None of them is reached.

    Args:
        application: Gradio's.
        max_body: bytes of a request that are read.
        hosts: names that the page may be asked for under; any, if there are none. Another site's script that has
            its own name lead here is thereby refused.
    """

    def __init__(self, application: Application, max_body: int, hosts: tuple[str, ...] = ()):
        self.application, self.max_body, self.hosts = application, max_body, hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.application(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        refused = self._refusal(scope)
        if refused:
            return await _answer(send, *refused)
        read, replaced = 0, False

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.max_body:
                raise _TooLarge
            return message

        async def without_failures(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and (message["status"] == 500 or read > self.max_body):
                replaced = True
                await _answer(send, *((413, self._too_large()) if read > self.max_body else (400, _UNKNOWN)))
            elif not replaced:
                await send(message)

        try:
            await self.application(scope, counted, without_failures)
        except (
            Exception
        ) as error:  # of any type: Gradio looks up what a request names without asking whether it is there
            if not replaced:
                raise
            if read <= self.max_body:
                print(f"wvq app: refused {scope['path']}: {type(error).__name__}: {error}"[:300], file=sys.stderr)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        method, path = scope["method"], scope["path"]
        host = headers.get(b"host", b"").decode("latin-1").rpartition(":")
        name = (host[0] if host[0] and host[2].isdecimal() else "".join(host)).strip("[]")
        if self.hosts and name not in self.hosts:
            return 403, f"this server is not {name[:60]!r}"
        if path in _POST:
            allowed = method == "POST"
        else:
            allowed = method in ("GET", "HEAD") and (path in _GET or path.startswith(_GET_BELOW))
        if not allowed:
            return 404, "this page has nothing there"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:18]) > self.max_body:
            return 413, self._too_large()
        return None

    def _too_large(self) -> str:
        return f"the request is too large; at most {self.max_body:,} bytes are read"


_UNKNOWN = "the request is none that this page makes"


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def application_of(page: Page, limits: Limits, host: str, port: int) -> Guard:
    """The page as an ASGI application."""
    application = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    gr.mount_gradio_app(
        application, page, path="/", server_name=host, server_port=port, show_error=True, footer_links=[],
        run_history=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False, **looks(),
    )  # fmt: skip
    hosts = _LOOPBACK if host in _LOOPBACK else ()
    return Guard(application, 2**20 + limits.max_bytes * 4 // 3, hosts)


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound to a port, 0 for any that is free.

    Raises:
        InputError: for a port that is taken, or a host that is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"host is {host!r}: {error.strerror}") from error
    try:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror}; give another --port") from error
    return bound


def give_back_large_buffers() -> None:
    """Have glibc give what it is asked for in one piece of 1 MiB or more back to the system when it is freed.

    By itself it keeps up to 32 MiB of such pieces in each thread, once one has been freed: pictures of many users would
    leave their memory behind. mallopt(3), M_MMAP_THRESHOLD; another C library has no such function, and is left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**20)


def serve(page: Page, limits: Limits, host: str, bound: socket.socket) -> None:
    """Answer requests until the process is interrupted."""
    give_back_large_buffers()
    port = bound.getsockname()[1]
    application = application_of(page, limits, host, port)
    bound.listen(128)  # who comes before the server has started waits for it
    config = uvicorn.Config(application, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    shown = f"[{host}]" if ":" in host else host
    print(f"wvq app: open http://{shown}:{port}/ in a browser; Ctrl-C ends it", flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[bound])
