# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from critic_r1_verl import hub

sys.path.insert(0, str(Path(__file__).parent))
from stand_in_hub import Repository, StandInHub

MODEL = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 2000,
    "pytorch_model.bin": b"1" * 2000,
    "modeling.py": b"1",
    "a.md": b"",
}
REPOSITORIES = {
    "owner/model": MODEL,
    "owner/pickled": {"config.json": b"{}", "pytorch_model.bin": b"1"},
    "datasets/owner/set": {"data/a.jsonl": b"{}\n", "set.py": b"1"},
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A hub whose repositories are not in the cache yet."""
    from huggingface_hub import _tree_cache, close_session, constants

    served = {name: Repository(files) for name, files in REPOSITORIES.items()} | {"owner/gated": Repository(MODEL, gated=True)}
    with StandInHub(served) as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", stand_in.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # The first request reads all certificates, which takes seconds on a busy machine.
        monkeypatch.setattr(hub, "_ANSWER_SECONDS", 60.0)
        # The library writes what it received in pieces of 10 MB.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
        monkeypatch.setenv("HF_TOKEN", "")
        _tree_cache._IN_MEMORY_TREE_CACHE.clear()
        close_session()
        yield stand_in
    close_session()


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_announced_and_its_pickles_and_code_stay_on_the_hub(world: StandInHub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hub.fetch("owner/model", "--base")
    assert content(folder) == {name: MODEL[name] for name in ("config.json", "model.safetensors", "a.md")}
    commit = world.repositories["owner/model"].commit
    assert f"--base owner/model: downloading 3 files, 512.0 kB (model, main = {commit[:12]}) to " in capsys.readouterr().err
    assert content(hub.fetch("owner/set", "--benchmark", kind="dataset")) == {"data/a.jsonl": b"{}\n"}


def test_what_is_here_needs_no_request(world: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    assert content(hub.fetch("owner/model", "--base", files=hub.PROCESSOR)) == {"config.json": b"{}"}
    assert hub.cached("owner/model") is None
    folder = hub.fetch("owner/model", "--base")
    world.requests.clear()
    assert hub.fetch("owner/model", "--base") == folder
    assert hub.fetch(str(tmp_path), "--base") == tmp_path
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch("owner/model", "--base") == folder
    assert world.requests == []


def test_a_broken_download_is_resumed(world: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    world.num_breaks = 2
    assert content(hub.fetch("owner/model", "--base"))["model.safetensors"] == MODEL["model.safetensors"]
    assert len(world.ranges) == 2
    assert all(int(wanted.removeprefix("bytes=").removesuffix("-")) > 100_000 for wanted in world.ranges)


def test_a_reset_download_ends_with_a_line_and_the_same_command_completes_it(world: StandInHub) -> None:
    world.num_breaks, world.breaks = 1, "reset"
    with pytest.raises(ValueError, match=r"owner/model: the download broke off \(ReadError.*run the same command again"):
        hub.fetch("owner/model", "--base")
    assert content(hub.fetch("owner/model", "--base"))["model.safetensors"] == MODEL["model.safetensors"]


def test_few_large_files_are_on_their_way_at_a_time() -> None:
    shards = [3_900_000_000] * 4 + [1_090_000_000, 20_000]
    assert [hub.at_a_time(sizes) for sizes in (shards, [20_000_000_000], [50_000] * 100, [])] == [2, 1, 8, 8]


def test_a_killed_download_keeps_its_whole_files_and_starts_the_broken_one_again(world: StandInHub, tmp_path: Path) -> None:
    """The library resumes within one process only, so this is the most that may be sent twice."""
    size = 30_000_000
    world.repositories["owner/model"] = repository = Repository({"config.json": b"{}", "model.safetensors": b"1" * size})
    file = f"/owner/model/resolve/{repository.commit}/model.safetensors"
    world.num_breaks, world.breaks = 1, "stall"
    program = "import sys; from critic_r1_verl import hub; hub.fetch('owner/model', '--base')"
    here = {"HF_ENDPOINT": world.endpoint, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | here, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not world.sent[file] or not list((tmp_path / "cache").rglob("config.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert (hub.fetch("owner/model", "--base") / "model.safetensors").stat().st_size == size
    assert world.sent[file] <= 1.5 * size and world.sent[file.replace("model.safetensors", "config.json")] == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("owner/gated", {}, "the repository is gated; ask for access at .*/owner/gated, then log in"),
        ("owner/none", {}, "there is no such model at .*, or it is private"),
        ("owner/none", {"kind": "dataset"}, "there is no such dataset"),
        ("owner/model", {"revision": "v9"}, "has no revision 'v9'; .*/owner/model/tree/main lists"),
        ("owner/pickled", {}, r"holds no \*.safetensors"),
        ("owner/model", {"files": ["*.none"]}, "holds no file to download"),
        ("none", {}, "no such file or folder, and no hub id"),
        ("../none", {}, "no such file or folder, and no hub id"),
    ],
)
def test_a_refusal_is_one_line(world: StandInHub, name: str, options: dict[str, Any], message: str) -> None:
    refused(name, message, **options)


def test_a_gated_repository_is_noticed_before_the_download(world: StandInHub) -> None:
    with pytest.raises(ValueError, match="the repository is gated"):
        hub.ask("owner/gated", "base")
    assert not any("/resolve/" in request for request in world.requests)


def test_a_token_opens_a_gated_repository(world: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", world.token)
    assert "model.safetensors" in content(hub.fetch("owner/gated", "--base"))
    refused("owner/none", "no such model")


def test_without_a_network(world: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused("owner/model", "the hub at http://127.0.0.1:9 cannot be reached .*hf download owner/model --local-dir DIR")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("owner/model", "HF_HUB_OFFLINE forbids to download it")
    assert world.requests == []


def test_a_hub_that_does_not_answer(world: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(hub, "_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: time.sleep(0.3))
    refused("owner/model", "cannot be reached .TimeoutError: no answer within 0.05 s")


def test_a_disk_without_room_is_noticed_before(world: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 500_000))
    refused("owner/model", "needs 512.0 kB in .*, where 500.0 kB are free; .*HF_HOME")
    assert not any(request.startswith("GET /owner") for request in world.requests)


def refused(name: str, message: str, **options: Any) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match=f"^--base {name}: .*{message}" if "hub id" not in message else message) as caught:
        hub.fetch(name, "--base", **options)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 2
