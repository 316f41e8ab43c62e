# SPDX-License-Identifier: Apache-2.0
"""Reads the raw rows of a benchmark from a hub id, a folder or a file, and stores their images under the hashes of their contents.

A repository of the hub is downloaded unchanged into the hub's cache and read like any folder. Nothing is skipped: a row or an image that
cannot be used is a ValueError that names it.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from critic_r1_verl import foreign, hub
from critic_r1_verl.files import parse_json, replacing
from critic_r1_verl.images import BadImage, check
from critic_r1_verl.records import AnyRecord, Choice, Image, PairRecord, path_problem

_SUFFIXES = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


@dataclass(frozen=True, slots=True)
class Row:
    """One raw row: its values, its position for error messages, its file, and the folder to which its image paths are relative."""

    values: dict[str, Any]
    where: str
    file: Path
    folder: Path

    def value(self, name: str, kind: type = str) -> Any:
        """The value of a key. ValueError names the row and the key if it is missing or its type is not exactly `kind`."""
        if name not in self.values:
            raise ValueError(f"{self.where}: key {name!r} is missing; the keys are {', '.join(self.values) or 'none'}")
        if type(self.values[name]) is not kind:
            raise ValueError(f"{self.where}: key {name!r}: {self.values[name]!r:.80} is not of type {kind.__name__}")
        return self.values[name]

    def one_of(self, name: str, *allowed: Any) -> Any:
        """The value of a key. ValueError names the row and the key if it is missing or none of these."""
        if (value := self.values.get(name)) not in allowed:
            raise ValueError(f"{self.where}: key {name!r}: {value!r:.80} is none of {', '.join(map(repr, allowed))}")
        return value

    def preferred(self, name: str, first: str, second: str) -> Choice:
        """The label under a key that names the better response by one of these two values."""
        return "1" if self.one_of(name, first, second) == first else "2"


def rows(location: str | Path, files: Sequence[str]) -> Iterator[Row]:
    """The rows of one file, or of the files of a folder or hub repository, in the order of their names.

    Each of `files` is one glob pattern, or several separated by spaces; the first that matches a file decides which files are read.
    ValueError if none matches, and for a file that cannot be read.
    """
    path = Path(location)
    if path.is_file():
        return _file_rows(path, path.parent)
    if not path.is_dir():
        path = hub.fetch(str(location), "benchmark", kind="dataset")
    for patterns in files:
        if found := sorted({file for pattern in patterns.split() for file in path.glob(pattern) if file.is_file()}):
            return (row for file in found for row in _file_rows(file, path))
    raise ValueError(f"{location}: holds none of {', '.join(files)}; give the folder of the downloaded benchmark, or one of its files")


def records(raw: Iterable[Row], convert: Callable[[Row], PairRecord]) -> Iterator[PairRecord]:
    """One record for each row, in their order.

    Several rows may hold the same pair. Each is an item of the benchmark and is kept, with its responses in the order of the first such
    row, so that the pair need be judged only once. Official scores count rows with contradicting labels too; their number goes to stderr.
    ValueError names the row that cannot be converted.
    """
    # For each pair: whether its responses were in alphabetical order in its first row, and the label of that row.
    first: dict[str, tuple[bool, str]] = {}
    contradicted = set()
    num_rows = 0
    for row in raw:
        num_rows += 1
        record = converted(row, convert)
        pair_id, ascending = record.pair_id, record.response_1 < record.response_2
        first_ascending, first_preferred = first.setdefault(pair_id, (ascending, record.preferred))
        if ascending != first_ascending:
            record = record.swap()
        if record.preferred != first_preferred:
            contradicted.add(pair_id)
        yield record
    if not num_rows:
        raise ValueError("the benchmark has no rows; download it again")
    if len(first) < num_rows:
        foreign.say(f"{num_rows} items are {len(first)} different pairs; {len(contradicted)} have contradicting labels", stderr=True)


def converted(row: Row, convert: Callable[[Row], AnyRecord]) -> AnyRecord:
    """convert(row), whose ValueErrors are made to name the row."""
    try:
        return convert(row)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(row.where) else f"{row.where}: {error}") from error


def store(row: Row, raw: Any, out: Path, *elsewhere: str) -> Image:
    """Copy an image (a path, bytes, or {"bytes", "path"}) unchanged to out/images, named by the sha256 of its bytes.

    elsewhere: more paths to try if there is no file at its path. ValueError names the row if the image is missing or does not open.
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
        suffix = _SUFFIXES[check(raw).format]
    except BadImage as error:
        raise ValueError(f"{row.where}: the image does not open ({error}); download it again") from error
    image = Image(path=f"images/{sha}.{suffix}", sha256=sha)
    with replacing(out / image.path) as temporary:
        temporary.write_bytes(raw)
    return image


def frames(row: Row, videos: Sequence[str], out: Path, most: int) -> tuple[Image, ...]:
    """Evenly spaced frames of a video that is a folder of pictures, at most `most` (2 or more); videos: its possible paths.

    ValueError names the row if there is no such folder, or if it is empty.
    """
    folder = _find(row, *videos)
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    if not files:
        raise ValueError(f"{row.where}: the video {videos[0]!r} is not a folder of frames")
    num_frames = min(most, len(files))
    chosen = [files[index * (len(files) - 1) // max(num_frames - 1, 1)] for index in range(num_frames)]
    return tuple(store(row, file.read_bytes(), out) for file in chosen)


def json_lines(path: Path) -> Iterator[Row]:
    """The JSON objects of a JSONL file; null becomes a row without values. ValueError names the file and the line."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                where = f"{path}:{number}"
                value = _parsed(line, where, cut=not line.endswith(b"\n"))
                yield Row({} if value is None else _object(value, where), where, path, path.parent)


def _file_rows(path: Path, folder: Path) -> Iterator[Row]:
    if path.suffix == ".jsonl":
        return (replace(row, folder=folder) for row in json_lines(path))
    if path.suffix == ".json":
        content = _parsed(path.read_bytes(), str(path), cut=False)
        items = content.get("pairs", [content]) if isinstance(content, dict) else content
        if not isinstance(items, list):
            raise ValueError(f"{path}: neither a list of rows nor a JSON object")
    elif path.suffix == ".parquet":
        items = _parquet(path)
    else:
        raise ValueError(f"{path}: this kind of file cannot be read; give .parquet, .jsonl or .json")
    located = ((f"{path}, row {number}", item) for number, item in enumerate(items))
    return (Row(_object(item, where), where, path, folder) for where, item in located)


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{path}: two columns are named {twice[0]!r:.80}; rename one")
            for batch in file.iter_batches(64):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error!s:.200}); download it again") from error


def _parsed(text: bytes, where: str, cut: bool) -> Any:
    try:
        return parse_json(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if cut:
            raise ValueError(f"{where}: the line is cut short; run the command that writes the file again") from error
        raise ValueError(f"{where}: not JSON ({error!s:.200})") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {value!r:.80} is not a JSON object")
    return value


def _find(row: Row, *paths: str) -> Path:
    """The first of these paths that exists in the benchmark's folder, in its images/, or in the folder of the row's file."""
    bases = list(dict.fromkeys((row.folder, row.folder / "images", row.file.parent)))
    for path in map(PurePosixPath, paths):
        if problem := path_problem(str(path)):
            raise ValueError(f"{row.where}: the path {str(path)!r:.200} {problem}")
        if found := next((base / path for base in bases if os.path.exists(base / path)), None):
            return found
    raise ValueError(f"{row.where}: {paths[0]!r:.200} is in none of {', '.join(map(str, bases))}; put the images there")
