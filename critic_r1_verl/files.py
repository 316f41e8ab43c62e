# SPDX-License-Identifier: Apache-2.0
"""Write files so that they appear only when complete, read JSON of which nothing vanishes, hash files, and lock folders."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TEMPORARY = ".tmp"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder. It replaces `path` if the block succeeds and is deleted if the block raises."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # The error of a full disk does not name the file.
        if error.errno is None or error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


class RepeatedKey(ValueError):
    """A JSON object has a key twice, of which a parser would keep the last value alone."""


def parse_json(text: str) -> Any:
    """The content of a JSON text.

    Raises RepeatedKey if a key stands twice in one object, else ValueError or RecursionError as json.loads does.
    """
    return json.loads(text, object_pairs_hook=_unrepeated)


def _unrepeated(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        keys = [key for key, _ in items]
        raise RepeatedKey(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.80} stands twice in one object")
    return found


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file. ValueError, with the file's name and the remedy, if it is missing or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object; {remedy}")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON. The file appears only when it is complete. ValueError if a number is not finite."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_temporaries(folder: Path, *, below: bool = False) -> None:
    """Delete what killed processes left of replacing() in a folder, and in the folders below it. No process may be writing there."""
    for stale in (folder.rglob if below else folder.glob)(f".*{_TEMPORARY}"):
        stale.unlink()


@contextmanager
def locked(folder: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Lock a folder while the block runs, so that no other process writes into it. The lock ends when its process dies.

    Temporary files that a killed process left directly in the folder are deleted. ValueError if another process holds the lock for longer
    than wait_seconds.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=wait_seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{folder}: another process writes into this folder; wait until it ends, or give another --out") from error
    try:
        remove_temporaries(folder)
        yield
    finally:
        lock.release()
