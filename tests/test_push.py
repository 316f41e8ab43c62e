# SPDX-License-Identifier: Apache-2.0
"""Uploads to a small server that speaks the hub's protocol for them: create, preupload, LFS batch and objects, commit."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from critic_r1_verl.training import push


class Hub(ThreadingHTTPServer):
    """repos: name -> {"private", "files": path -> bytes}. refuse: (pattern of a path, status) of requests answered by an error."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, dict] = {}
        self.objects: dict[str, bytes] = {}
        self.refuse: tuple[str, int] | None = None
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(f"{self.command} {self.path}")
        refused = self.server.refuse
        if refused and re.search(refused[0], self.path):
            self.send(refused[1], {"error": "refused"})
        elif self.headers.get("Authorization") != "Bearer right" and "/objects/" not in self.path:
            self.send(401, {"error": "Invalid credentials"})
        else:
            self.send(*self.result(body))

    do_GET = do_POST = do_PUT = answer

    def result(self, body: bytes) -> tuple[int, dict]:
        hub, path = self.server, self.path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            exists = name in hub.repos
            hub.repos.setdefault(name, {"private": asked.get("visibility") == "private", "files": {}})
            return 409 if exists else 200, {"url": f"{hub.url}/{name}", "error": "exists"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if found := re.fullmatch(r"/objects/(\w+)", path):
            hub.objects[found[1]] = body
            return 200, {}
        if found := re.fullmatch(r"/([\w-]+/[\w-]+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(body)["objects"]
            uploads = [{**each, "actions": {"upload": {"href": f"{hub.url}/objects/{each['oid']}"}}} for each in objects]
            return 200, {"transfer": "basic", "objects": uploads}
        found = re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(/preupload/main|/commit/main|)(\?.*)?", path)
        assert found, path
        if (repo := hub.repos.get(found[1])) is None:
            return 404, {"error": "Repository not found"}
        if found[2] == "":
            return 200, {"id": found[1], "private": repo["private"], "siblings": [], "tags": []}
        if found[2] == "/preupload/main":
            modes = {True: "lfs", False: "regular"}
            files = [{"path": each["path"]} for each in json.loads(body)["files"]]
            decided = [{**each, "uploadMode": modes[each["path"].endswith(".safetensors")], "shouldIgnore": False} for each in files]
            return 200, {"files": decided}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repo["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo["files"][value["path"]] = hub.objects[value["oid"]]
        return 200, {"commitUrl": f"{hub.url}/{found[1]}/commit/abc", "commitOid": "abc"}

    def send(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "right")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name, content in (
        ("model.safetensors", "weights"),
        ("config.json", "{}"),
        ("README.md", "---\ntags: [a]\n---\n"),
        ("notes", "mine"),
    ):
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize("public", [False, True])
def test_a_model_is_uploaded(hub, model, public):
    for _ in range(2):
        # The second time the repository is there already.
        assert push.open_repo("me/critic", public=public) == f"{hub.url}/me/critic"
        push.upload(model, "me/critic")
    assert hub.repos["me/critic"]["private"] is not public
    assert {name: content.decode() for name, content in hub.repos["me/critic"]["files"].items()} == {
        "model.safetensors": "weights",
        "config.json": "{}",
        "README.md": "---\ntags: [a]\n---\n",
    }


def test_a_public_repository_is_written_to_only_when_that_is_asked_for(hub):
    hub.repos["me/critic"] = {"private": False, "files": {}}
    with pytest.raises(ValueError, match="this repository is public; say --public"):
        push.open_repo("me/critic", public=False)
    push.open_repo("me/critic", public=True)


@pytest.mark.parametrize(
    ("repo", "token", "refuse", "message"),
    [
        ("me/critic", None, None, "--push me/critic: there is no token for the hub; run `hf auth login`"),
        ("me/critic", "wrong", None, "does not accept the token"),
        ("me/critic", "right", ("create", 403), "may not write there"),
        ("me/critic", "right", ("create", 404), "does not know it"),
        ("me/critic", "right", ("create", 500), "the hub says: refused"),
        ("me/critic/more", "right", None, "not the name of a repository"),
    ],
)
def test_what_keeps_a_model_from_the_hub_is_one_line(hub, monkeypatch, repo, token, refuse, message):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    monkeypatch.setenv("HF_TOKEN", token or "")
    hub.refuse = refuse
    with pytest.raises(ValueError, match=message) as raised:
        push.open_repo(repo, public=False)
    assert "\n" not in str(raised.value)
    # Once: creating, and, where that was refused, looking whether it is there.
    assert len(hub.asked) <= 2


@pytest.mark.parametrize(
    ("part", "message"),
    [("/commit/", "the token may not write there"), ("^/objects/", "the upload broke off .*model.safetensors.*; the same command goes on")],
)
def test_an_upload_that_is_refused(hub, model, part, message):
    push.open_repo("me/critic", public=False)
    hub.refuse = (part, 403)
    with pytest.raises(ValueError, match=f"--push me/critic: {message}"):
        push.upload(model, "me/critic")


@pytest.mark.parametrize(("offline", "message"), [(True, "HF_HUB_OFFLINE forbids it"), (False, "http://127.0.0.1:9 cannot be reached")])
def test_without_a_network(hub, monkeypatch, offline, message):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=message):
        push.open_repo("me/critic", public=False)
