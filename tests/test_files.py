# SPDX-License-Identifier: Apache-2.0
"""Files that appear only when complete, and folders that one process holds."""

import hashlib
import threading
from pathlib import Path

import pytest

from critic_r1_verl.files import file_sha256, locked, replacing, write_json


def test_a_file_appears_only_when_the_block_ends_well(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.txt"
    with replacing(file) as temporary:
        temporary.write_text("one")
        assert not file.exists()
    with pytest.raises(KeyboardInterrupt), replacing(file) as temporary:
        temporary.write_text("two")
        raise KeyboardInterrupt
    assert file.read_text() == "one" and [path.name for path in file.parent.iterdir()] == ["a.txt"]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, replacing(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_json_is_readable_and_finite(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": "ü", "a": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": "ü",\n  "a": 1\n}\n'
    assert file_sha256(tmp_path / "a.json") == hashlib.sha256((tmp_path / "a.json").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"rate": float("nan")})
    assert "ü" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_folder_is_held_by_one_and_freed_of_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / ".a.json.123.tmp").write_text("half")
    with locked(tmp_path):
        assert not (tmp_path / ".a.json.123.tmp").exists()
        with pytest.raises(ValueError, match="another process writes into this folder"), locked(tmp_path):
            pytest.fail("held twice")
    with locked(tmp_path):
        pass


def test_a_lock_may_be_waited_for(tmp_path: Path) -> None:
    with locked(tmp_path):
        waiting = threading.Thread(target=lambda: locked(tmp_path, wait_seconds=15).__enter__())
        waiting.start()
        assert waiting.is_alive()
    waiting.join()
