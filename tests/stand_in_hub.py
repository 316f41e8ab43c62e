# SPDX-License-Identifier: Apache-2.0
"""A small server that speaks the hub's protocol on this machine: what huggingface_hub and datasets ask of it, and no more.

Read from the requests of huggingface_hub 1.33 and datasets 5.2. Files are served over plain HTTP, without the headers of Xet.
"""

import hashlib
import json
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

BRANCH = "main"


@dataclass
class Repository:
    """A repository with one commit: its files, and whether it takes a token to read them."""

    files: dict[str, bytes]
    gated: bool = False
    commit: str = field(init=False)

    def __post_init__(self) -> None:
        self.commit = hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


def files_of(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their relative paths."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class StandInHub:
    """Serves repositories, {"OWNER/NAME" or "datasets/OWNER/NAME": Repository}, at `endpoint` while its context is open.

    requests: what was asked for, as "METHOD /path". sent: the bytes of files that were sent, by path. ranges: the Range headers of the
    downloads. num_breaks: how many of the next downloads of more than 1 kB break in the middle; how they do is `breaks`: a connection that
    ends, one that is reset, or one on which nothing comes any more.
    """

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.repositories = repositories
        self.requests: list[str] = []
        self.sent: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.num_breaks = 0
        self.breaks: Literal["end", "reset", "stall"] = "end"
        self.token = "hf_secret"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "StandInHub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandInHub

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def log_message(self, *arguments: Any) -> None:
        pass

    def _route(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.hub.requests.append(f"{self.command} {url.path}")
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "api" and len(parts) >= 4 and parts[1] in ("models", "datasets"):
            kind, name, action = parts[1], "/".join(parts[2:4]), parts[4:]
            if repository := self._found(name if kind == "models" else f"datasets/{name}", action[1] if len(action) > 1 else BRANCH):
                self._api(name, repository, action, parse_qs(url.query), parse_qs(body))
        elif "resolve" in parts:
            place = parts.index("resolve")
            if repository := self._found("/".join(parts[:place]), parts[place + 1]):
                self._file(repository, "/".join(parts[place + 2 :]))
        else:
            self._fail(404, "", "nothing is here")

    def _found(self, name: str, revision: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            # As on the hub, where nobody is told of private repositories.
            self._fail(404 if self._has_token() else 401, "RepoNotFound", "Repository not found")
        elif revision not in (BRANCH, repository.commit):
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository

    def _api(self, name: str, repository: Repository, action: list[str], query: dict[str, list[str]], form: dict[str, list[str]]) -> None:
        match action:
            case [] | ["revision", _]:
                siblings = [
                    {"rfilename": path} | ({"size": len(data), "blobId": _etag(data)} if "blobs" in query else {})
                    for path, data in repository.files.items()
                ]
                gated = "auto" if repository.gated else False
                self._json({"id": name, "sha": repository.commit, "private": False, "gated": gated, "siblings": siblings, "tags": []})
            case ["tree", _, *folder]:
                below = "".join(f"{part}/" for part in folder)
                recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
                entries = [entry for entry in _entries(repository) if entry["path"].startswith(below)]
                entries = [entry for entry in entries if recursive or "/" not in entry["path"][len(below) :]]
                if folder and not entries:
                    self._fail(404, "EntryNotFound", "no such folder")
                else:
                    self._json(entries)
            case ["auth-check"] if repository.gated and not self._has_token():
                self._fail(403, "GatedRepo", "Access to this repository is restricted")
            case ["auth-check"]:
                self._json({})
            case ["paths-info", _]:
                self._json([entry for entry in _entries(repository) if entry["path"] in form.get("paths", [])])
            case _:
                self._fail(404, "", "nothing is here")

    def _file(self, repository: Repository, path: str) -> None:
        commit = {"X-Repo-Commit": repository.commit}
        if repository.gated and not self._has_token():
            self._fail(401, "GatedRepo", "Access to this repository is restricted", commit)
        elif path not in repository.files:
            self._fail(404, "EntryNotFound", "Entry not found", commit)
        else:
            data = repository.files[path]
            headers = commit | {"ETag": f'"{_etag(data)}"', "Accept-Ranges": "bytes"}
            first = 0
            if wanted := self.headers.get("Range"):
                self.hub.ranges.append(wanted)
                first = int(wanted.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            self._send(206 if wanted else 200, headers, data[first:], breakable=len(data) > 1000)

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _json(self, value: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _fail(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        codes = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        self._send(status, {"Content-Type": "application/json"} | codes | (headers or {}), json.dumps({"error": message}).encode())

    def _send(self, status: int, headers: dict[str, str], data: bytes, breakable: bool = False) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        broken = breakable and self.hub.num_breaks > 0
        self.hub.num_breaks -= broken
        data = data[: len(data) // 2] if broken else data
        self.wfile.write(data)
        self.hub.sent[urlsplit(self.path).path] += len(data)
        if broken:
            self.close_connection = True
            if self.hub.breaks == "stall":
                # Until the other side is gone.
                with suppress(ConnectionError):
                    self.connection.recv(1)
            elif self.hub.breaks == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()


def _entries(repository: Repository) -> list[dict[str, Any]]:
    """The files and folders of a repository, as the hub lists them."""
    folders = {"/".join(path.split("/")[:depth]) for path in repository.files for depth in range(1, path.count("/") + 1)}
    return [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in sorted(folders)] + [
        {"type": "file", "path": path, "size": len(data), "oid": _etag(data)} for path, data in sorted(repository.files.items())
    ]


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
