# SPDX-License-Identifier: Apache-2.0
"""A hub id, a folder or a file -> raw rows that know where they stand -> records, with their images stored by content.

A hub id is downloaded as it is into the hub's own cache and read like any folder. Nothing is skipped: a row or an image that cannot be
used is a ValueError that names it.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from critic_r1_verl.files import replacing
from critic_r1_verl.images import BadImage, decoded
from critic_r1_verl.records import Image, PairRecord, path_problem

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SUFFIXES = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


@dataclass(frozen=True, slots=True)
class Row:
    """One raw row: its values, where it stands (file:line or file, row N), its file, and the folder that its image paths start from."""

    values: dict[str, Any]
    where: str
    file: Path
    folder: Path

    def value(self, name: str, kind: type = str) -> Any:
        """The value under a key, of this very type. ValueError names the row and the key."""
        if name not in self.values:
            raise ValueError(f"{self.where}: key {name!r} is missing; the keys are {', '.join(self.values) or 'none'}")
        if type(self.values[name]) is not kind:
            raise ValueError(f"{self.where}: key {name!r}: {self.values[name]!r:.80} is not of type {kind.__name__}")
        return self.values[name]

    def one_of(self, name: str, *allowed: Any) -> Any:
        """The value under a key, which must be one of these."""
        if name not in self.values or self.values[name] not in allowed:
            raise ValueError(f"{self.where}: key {name!r}: {self.values.get(name)!r:.80} is none of {', '.join(map(repr, allowed))}")
        return self.values[name]


def rows(location: str | Path, files: Sequence[str]) -> Iterator[Row]:
    """The rows of a file, or of those files in a folder or hub repository, in order of name, that the first of `files` that fits names.

    Each of `files` is one glob or several with spaces between them.
    """
    path = Path(location)
    if path.is_file():
        return _file_rows(path, path.parent)
    if not path.is_dir():
        path = _download(str(location))
    for patterns in files:
        if found := sorted({file for pattern in patterns.split() for file in path.glob(pattern) if file.is_file()}):
            return (row for file in found for row in _file_rows(file, path))
    raise ValueError(f"{location}: holds none of {', '.join(files)}; give the benchmark's folder as downloaded, or one file")


def records(raw: Iterable[Row], convert: Callable[[Row], PairRecord]) -> Iterator[PairRecord]:
    """One record a row, in their order.

    The same content may stand in several rows: each is an item of the benchmark and stays, in the frame of the first, so that one judgement
    of the pair serves them all. Rows that contradict each other stay too, as official scores count both; how many is said on stderr.
    """
    # Of each pair whether the smaller response stands first, and the label.
    first: dict[str, tuple[bool, str]] = {}
    contradicted = set()
    num_rows = 0
    for row in raw:
        num_rows += 1
        try:
            record = convert(row)
        except ValueError as error:
            raise ValueError(str(error) if str(error).startswith(row.where) else f"{row.where}: {error}") from error
        pair_id, ascending = record.pair_id, record.response_1 < record.response_2
        original = first.setdefault(pair_id, (ascending, record.preferred))
        if ascending != original[0]:
            record = record.swap()
        if record.preferred != original[1]:
            contradicted.add(pair_id)
        yield record
    if not num_rows:
        raise ValueError("the benchmark has no rows; download it again")
    if len(first) < num_rows:
        print(f"{num_rows} items over {len(first)} different pairs, {len(contradicted)} of which contradict themselves", file=sys.stderr)


def store(row: Row, raw: Any, out: Path, *elsewhere: str) -> Image:
    """Write an image (a path, bytes, or {"bytes", "path"}) as it is to out/images, named by its content, if it opens.

    elsewhere: paths where it may be if it is not at its own.
    """
    if isinstance(raw, dict):
        raw = raw.get("path") if raw.get("bytes") is None else raw["bytes"]
    if isinstance(raw, str) and raw:
        raw = _find(row, raw, *elsewhere).read_bytes()
    if not isinstance(raw, bytes):
        raise ValueError(f"{row.where}: the image is {raw!r:.80}, neither a path nor bytes")
    sha = hashlib.sha256(raw).hexdigest()
    names = [f"images/{sha}.{suffix}" for suffix in _SUFFIXES.values()]
    if stored := next((name for name in names if (out / name).is_file()), None):
        return Image(path=stored, sha256=sha)
    try:
        kind = decoded(raw, tuple(_SUFFIXES)).format
    except BadImage as error:
        raise ValueError(f"{row.where}: the image does not open ({error}); download it again") from error
    # Pillow calls a JPEG that holds a second picture MPO, whatever formats say.
    suffix = _SUFFIXES["JPEG" if kind == "MPO" else kind]
    image = Image(path=f"images/{sha}.{suffix}", sha256=sha)
    with replacing(out / image.path) as temporary:
        temporary.write_bytes(raw)
    return image


def frames(row: Row, videos: Sequence[str], out: Path, most: int) -> tuple[Image, ...]:
    """At most so many frames (2 or more) of a video kept as a folder of pictures, the first of these that is there, evenly spread."""
    folder = _find(row, *videos)
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    if not files:
        raise ValueError(f"{row.where}: the video {videos[0]!r} is no folder of frames")
    num_frames = min(most, len(files))
    chosen = [files[number * (len(files) - 1) // max(num_frames - 1, 1)] for number in range(num_frames)]
    return tuple(store(row, file.read_bytes(), out) for file in chosen)


def json_lines(path: Path) -> Iterator[Row]:
    """The objects of a JSONL file, null as one without keys. ValueError names file and line, and tells a last line that was cut short."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                where = f"{path}:{number}"
                value = _parsed(line, where, cut=not line.endswith(b"\n"))
                yield Row({} if value is None else _object(value, where), where, path, path.parent)


def _download(hub: str) -> Path:
    if not _HUB_ID.fullmatch(hub):
        raise ValueError(f"{hub}: no such file or folder, and no hub id (owner/name) either")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub, repo_type="dataset"))
    # The hub and the network raise errors of many kinds, with one remedy.
    except Exception as error:
        raise ValueError(
            f"{hub}: cannot be downloaded ({type(error).__name__}: {error!s:.200}); elsewhere, "
            f"`hf download {hub} --repo-type dataset --local-dir DIR`, then give DIR"
        ) from error


def _file_rows(path: Path, folder: Path) -> Iterator[Row]:
    if path.suffix == ".jsonl":
        return (replace(row, folder=folder) for row in json_lines(path))
    if path.suffix == ".json":
        content = _parsed(path.read_bytes(), str(path), cut=False)
        items = content.get("pairs", [content]) if isinstance(content, dict) else content
        if not isinstance(items, list):
            raise ValueError(f'{path}: neither a list of rows nor {{"pairs": [...]}} nor one object')
    elif path.suffix == ".parquet":
        items = _parquet(path)
    else:
        raise ValueError(f"{path}: not a kind of file that can be read (.parquet, .jsonl, .json)")
    places = ((f"{path}, row {number}", item) for number, item in enumerate(items))
    return (Row(_object(item, where), where, path, folder) for where, item in places)


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(64):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error!s:.200}); download it again") from error


def _parsed(text: bytes, where: str, cut: bool) -> Any:
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if cut:
            raise ValueError(f"{where}: half a line, cut short; run what wrote it again, it goes on from there") from error
        raise ValueError(f"{where}: not JSON ({error!s:.200})") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {value!r:.80} is not a JSON object")
    return value


def _find(row: Row, *paths: str) -> Path:
    """The first of these paths that is there: under the benchmark's folder, its images/ folder, or the folder of the row's own file."""
    bases = list(dict.fromkeys((row.folder, row.folder / "images", row.file.parent)))
    for path in map(PurePosixPath, paths):
        if problem := path_problem(str(path)):
            raise ValueError(f"{row.where}: the path {str(path)!r:.200} {problem}")
        if found := next((base / path for base in bases if os.path.exists(base / path)), None):
            return found
    raise ValueError(f"{row.where}: {paths[0]!r:.200} is in none of {', '.join(map(str, bases))}; put the images there")
