# SPDX-License-Identifier: Apache-2.0
"""Files: written so that they appear only when complete, hashed, and folders held by one process at a time."""

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
    """A temporary path beside path that takes its place when the block ends well, and is removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # A full disk does not say which file was being written.
        if error.errno is None or error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and programs alike, indented; the file appears only when it is complete."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder while the block runs, so that no second process writes into it; a process that dies releases it.

    Temporary files that a killed process left directly in the folder are removed. ValueError if another process holds it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{folder}: another process writes into this folder; wait until it ends, or give another --out") from error
    try:
        for stale in folder.glob(f".*{_TEMPORARY}"):
            stale.unlink()
        yield
    finally:
        lock.release()
