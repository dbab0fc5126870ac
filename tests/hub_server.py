"""A hub on 127.0.0.1: as much of the Hugging Face hub's API as it takes to push a repository and to load it again."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_of_the_owner"
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    """Commits and branches, which lead to them."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        named = [(name, hashlib.sha1(content).hexdigest()) for name, content in sorted(files.items())]
        sha = hashlib.sha1(json.dumps([len(self.commits), named]).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        """Of the newest commit of the main branch."""
        return self.commits[self.branches["main"]]


class Hub(ThreadingHTTPServer):
    """The repositories by their names, and every path that was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Request(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.server.asked.append(path)
        for pattern, answer in (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", lambda _, __: self._json({"errors": [], "warnings": []})),
            (rf"/api/models/{_REPO}/preupload/.+", self._preupload),
            (rf"/api/models/{_REPO}/commit/(?P<revision>.+)", self._commit),
            (rf"/api/models/{_REPO}/branch/(?P<revision>.+)", self._branch),
            (rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)", self._tree),
            (rf"/api/models/{_REPO}(/revision/(?P<revision>.+))?", self._about),
            (rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self._resolve),
        ):
            if match := re.fullmatch(pattern, path):
                return answer(match.groupdict(), body)
        return self._refuse(404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = _answer

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _trusted(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: object, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status, Content_Type="application/json")

    def _refuse(self, status: int, code: str) -> None:
        self._send(json.dumps({"error": code}).encode(), status, X_Error_Code=code, X_Error_Message=code)

    def _found(self, match: dict[str, str]) -> tuple[Repository, str] | None:
        """The repository and the commit that is meant, or None after a refusal."""
        repository = self.server.repositories.get(match["repo"])
        if repository is None or (repository.private and not self._trusted()):
            self._refuse(404, "RepoNotFound")
            return None
        revision = match["revision"] or "main"
        sha = revision if revision in repository.commits else repository.branches.get(revision)
        if sha is None:
            self._refuse(404, "RevisionNotFound")
            return None
        return repository, sha

    def _create(self, match: dict[str, str], body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.server.address}/{name}", "id": name}
        if not self._trusted():
            return self._refuse(401, "")
        if name in self.server.repositories:
            return self._json(url, 409)
        repository = Repository(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.server.repositories[name] = repository
        return self._json(url)

    def _preupload(self, match: dict[str, str], body: bytes) -> None:
        files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
        self._json({"files": files})

    def _commit(self, match: dict[str, str], body: bytes) -> None:
        if not self._trusted():
            return self._refuse(401, "")
        if (found := self._found(match)) is None:
            return None
        repository, parent = found
        files = dict(repository.commits[parent])
        for line in body.splitlines():
            operation = json.loads(line)
            if operation["key"] == "file":
                files[operation["value"]["path"]] = base64.b64decode(operation["value"]["content"])
        sha = repository.commit(match["revision"], files)
        url = f"{self.server.address}/{match['repo']}/commit/{sha}"
        return self._json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _branch(self, match: dict[str, str], body: bytes) -> None:
        repository = self.server.repositories[match["repo"]]
        repository.branches.setdefault(match["revision"], repository.branches["main"])
        self._json({})

    def _about(self, match: dict[str, str], body: bytes) -> None:
        if found := self._found(match):
            repository, sha = found
            files = [{"rfilename": name} for name in repository.commits[sha]]
            self._json({"id": match["repo"], "sha": sha, "private": repository.private, "siblings": files, "tags": []})

    def _tree(self, match: dict[str, str], body: bytes) -> None:
        if found := self._found(match):
            repository, sha = found
            self._json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in repository.commits[sha].items()
                ]
            )

    def _resolve(self, match: dict[str, str], body: bytes) -> None:
        if found := self._found(match):
            repository, sha = found
            content = repository.commits[sha].get(match["file"])
            if content is None:
                return self._refuse(404, "EntryNotFound")
            tag = hashlib.sha1(content).hexdigest()
            return self._send(content, ETag=f'"{tag}"', X_Repo_Commit=sha)
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests' output is theirs."""


@contextmanager
def local_hub(cache: Path) -> Iterator[Hub]:
    """A hub that huggingface_hub asks, as its owner, inside; what is downloaded from it is kept in `cache`."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=[0.01], daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        patch.setattr("huggingface_hub.hf_api.api.endpoint", hub.address)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setenv("HF_TOKEN", TOKEN)
        try:
            yield hub
        finally:
            hub.shutdown()
            hub.server_close()
            thread.join()
