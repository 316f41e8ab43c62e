# SPDX-License-Identifier: Apache-2.0
"""Data files that are packed: in a zip archive, which may hold several, or each by itself, as rows.jsonl.gz and rows.jsonl.zst.

Whatever is wrong with a packed file becomes one ValueError that names it, the file in it, and the remedy.
"""

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from critic_r1_verl.files import replacing
from data_prep.tables import KINDS

ZIP = ".zip"
STREAMS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Suffixes of files that are packed by themselves, and pyarrow's names of the codecs."""
MAX_RATIO, SMALL_BYTES = 200, 64 * 2**20
"""A file that unpacks to more than SMALL_BYTES and more than MAX_RATIO times its packed size is refused; texts have ratios of 3 to 20."""

_BLOCK_BYTES = 2**20
_MAX_NAME = 200


def kind(path: Path) -> str:
    """The suffix that says how the rows of a file are read, without that of its packing: .jsonl of rows.jsonl.gz; .zip for an archive."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return suffixes[0] if len(suffixes) == 2 and suffixes[1] in STREAMS else suffixes[-1] if suffixes else ""


def is_packed(path: Path) -> bool:
    return path.suffix.lower() in (ZIP, *STREAMS)


def names(packed: Path) -> list[str]:
    """The file names under which the data files in a packed file are unpacked, sorted."""
    if packed.suffix.lower() in STREAMS:
        return [packed.stem]
    with _errors(packed), zipfile.ZipFile(packed) as archive:
        return sorted(_members(packed, archive))


def unpack(packed: Path, to: Path) -> None:
    """Unpack the data file that names() calls to.name."""
    with replacing(to) as temporary, temporary.open("wb") as target, _errors(packed):
        if packed.suffix.lower() in STREAMS:
            import pyarrow as pa

            with pa.input_stream(str(packed), compression=STREAMS[packed.suffix.lower()]) as source:
                _copy(source, target, packed.stat().st_size, packed.name)
            return
        with zipfile.ZipFile(packed) as archive:
            member = _members(packed, archive)[to.name]
            with archive.open(member) as source:
                _copy(source, target, member.compress_size, member.filename)


def _copy(source: IO[bytes] | Any, target: IO[bytes], packed_bytes: int, name: str) -> None:
    num_bytes = 0
    while block := source.read(_BLOCK_BYTES):
        num_bytes += len(block)
        if num_bytes > max(SMALL_BYTES, MAX_RATIO * packed_bytes):
            raise ValueError(f"{name:.200} unpacks to more than {MAX_RATIO} times its packed size, as no data file does")
        target.write(block)


@contextmanager
def _errors(packed: Path) -> Iterator[None]:
    try:
        yield
    # zipfile and the codecs raise errors of a dozen kinds: for bad sums, methods, passwords, ends, names.
    except Exception as error:
        # A full disk is no fault of the file.
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{packed}: cannot be unpacked ({reason:.300}); download it again, or unpack it by other means") from error


def _members(packed: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The data files of an archive: {its path as one file name, in which a slash is %2F: member}."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        inner = Path(info.filename)
        if info.is_dir() or kind(inner) not in KINDS or inner.parts[:1] == ("__MACOSX",):
            continue
        if is_packed(inner):
            raise ValueError(f"it holds {info.filename!r:.200}, which is packed twice")
        name = quote(info.filename, safe=" ", errors="surrogatepass")
        if len(name) > _MAX_NAME:
            name = hashlib.sha256(name.encode()).hexdigest() + inner.suffix.lower()
        if name in found:
            raise ValueError(f"it holds {info.filename!r:.200} twice, and one of the two would be lost")
        found[name] = info
    return found


def folder(work: Path, identity: list[Any]) -> Path:
    """Where the files of a packed file are unpacked; packed files of several folders may have the same name."""
    return work / hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
