# SPDX-License-Identifier: Apache-2.0
"""Where raw rows come from: a hub id, a folder or a file -> data files -> tables whose rows can be read from any place.

Read are parquet, arrow (what `datasets` keeps), JSONL, a JSON list, CSV and TSV, and zip archives of these. A hub id goes through
`datasets`, which downloads to its own cache; local files are read in place, without a second copy. No loading script and no pickle is run.
"""

import csv
import json
import re
import sys
import zipfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from critic_r1_verl.files import replacing
from data_prep.corpus import SchemaError, Skip

KINDS = (".parquet", ".arrow", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
NOT_UTF8 = Skip("text is not valid UTF-8")

_BATCH_ROWS = 64
_DATASETS_OWN = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "meta.json")
_SPLITS = {"train": {"train"}, "validation": {"validation", "valid", "val", "dev"}, "test": {"test"}}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class File:
    """One data file, the folder to which its image paths are relative, and the zip archive that it comes from, if any."""

    path: Path
    images: Path | None
    archive: Path | None = None

    def identity(self) -> list[Any]:
        """What changes when the file changes: name, bytes, time of change; of the archive if there is one."""
        stat = (self.archive or self.path).stat()
        return [str(self.path), str(self.images), stat.st_size, stat.st_mtime_ns]


def find(location: str, corpus: Any, images: Path | None, work: Path) -> list[File]:
    """The data files of a corpus module at a location (file, folder, hub id, or "" for the corpus's own hub id), in a fixed order.

    images is the folder of the images, if it is not the location's own. Archives will be unpacked under work (see unpack).
    ValueError if there is nothing to read.
    """
    if not location:
        location = corpus.HUB or ""
        if not location:
            raise ValueError(f"--corpus {corpus.NAME}: give the file or folder, as {corpus.NAME}:PATH")
    elif Path(location).exists() or not _HUB_ID.fullmatch(location):
        files = _local(Path(location), corpus, work)
        return [replace(file, images=images) for file in files] if images else files
    return [File(path, images) for path in _download(location, corpus)]


def unpack(files: Sequence[File]) -> None:
    """Write those data files that are still in their archives; pictures in an archive are left there."""
    for file in files:
        if file.archive and not file.path.exists():
            with zipfile.ZipFile(file.archive) as archive, replacing(file.path) as temporary:
                member = _members(archive)[file.path.name]
                with archive.open(member) as packed, temporary.open("wb") as stream:
                    while block := packed.read(2**20):
                        stream.write(block)


class Table:
    """Rows of one data file, each a dict with names changed as in `names` {theirs: ours}. ValueError names the file that cannot be read."""

    def __init__(self, path: Path, names: Mapping[str, str] | None = None) -> None:
        self._names = names or {}
        opened = _READERS[path.suffix.lower()](path)
        self._num_rows, columns, self._read = opened
        self.columns = {self._names.get(name, name) for name in columns}

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        """Rows start to stop, values as they are stored; a Skip where a row's text is not UTF-8. Memory does not grow with the file."""
        for row in self._read(start, min(stop, self._num_rows)):
            yield row if isinstance(row, Skip) else {self._names.get(name, name): value for name, value in row.items()}


Reader = tuple[int, Sequence[str], Callable[[int, int], Iterator[dict[str, Any] | Skip]]]


def _download(hub: str, corpus: Any) -> list[Path]:
    import datasets

    revision = (corpus.REVISION or None) if hub == corpus.HUB else None
    try:
        loaded = datasets.load_dataset(hub, corpus.CONFIG, split=corpus.SPLIT, revision=revision)
    # The hub, the network and the parsers of `datasets` raise errors of many kinds, with one remedy.
    except Exception as error:
        raise ValueError(
            f"--corpus {corpus.NAME}: `datasets` cannot load {hub}: {type(error).__name__}: {error!s:.300}\n"
            f"Download it (hf download {hub} --repo-type dataset --local-dir DIR), unpack its archives, and give {corpus.NAME}:DIR"
        ) from error
    return [Path(cached["filename"]) for cached in loaded.cache_files]


def _local(location: Path, corpus: Any, work: Path) -> list[File]:
    if location.is_file():
        return _with_archives([File(location, location.parent)], work)
    if not location.is_dir():
        raise ValueError(f"--corpus {corpus.NAME}:{location}: no such file or folder, and not a hub id either")
    if files := _from_meta(location):
        return files
    folder = location / corpus.CONFIG if corpus.CONFIG and (location / corpus.CONFIG).is_dir() else location
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _DATASETS_OWN and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    for name in getattr(corpus, "FILES", ()):
        if paths := [path for path in found if path.name == name]:
            return [File(path, location) for path in paths]
    for kind in (*KINDS, ".zip"):
        if paths := _of_split([path for path in found if path.suffix.lower() == kind], folder, corpus.SPLIT):
            return _with_archives([File(path, location) for path in paths], work)
    raise ValueError(f"--corpus {corpus.NAME}:{location}: no data file of the split {corpus.SPLIT!r} ({', '.join(KINDS)}, .zip)")


def _of_split(paths: list[Path], folder: Path, split: str) -> list[Path]:
    """The paths whose names say this split, else those that name none."""
    words = {path: set(re.split(r"[^a-z]+", path.relative_to(folder).as_posix().lower())) for path in paths}
    wanted = _SPLITS.get(split, {split})
    others = set().union(*_SPLITS.values())
    return [path for path in paths if words[path] & wanted] or [path for path in paths if not words[path] & others]


def _from_meta(folder: Path) -> list[File]:
    """The files that a meta.json {name: {"root", "annotation"}} lists, as in MMPR; empty if there is none."""
    meta = folder / "meta.json"
    if not meta.is_file():
        return []
    try:
        entries = [(entry["annotation"], entry["root"]) for entry in json.loads(meta.read_text(encoding="utf-8")).values()]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f'{meta}: not {{name: {{"root", "annotation"}}}}, as in MMPR ({type(error).__name__}: {error})') from error
    files = []
    for annotation, root in entries:
        # The paths are relative to the folder, or to the folder in which the download was unpacked under the set's own name.
        bases = [base for base in (folder, folder.parent) if (base / annotation).is_file()]
        if not bases:
            raise ValueError(f"{meta}: {annotation} is in neither {folder} nor {folder.parent}; unpack annotations.zip there")
        files.append(File(bases[0] / annotation, bases[0] / root))
    return files


def _with_archives(files: list[File], work: Path) -> list[File]:
    """The same with each archive replaced by the data files in it."""
    result = []
    for file in files:
        if file.path.suffix.lower() != ".zip":
            if file.path.suffix.lower() not in KINDS:
                raise ValueError(f"{file.path}: not a kind of file that can be read ({', '.join(KINDS)}, .zip)")
            result.append(file)
            continue
        try:
            with zipfile.ZipFile(file.path) as archive:
                result += [File(work / file.path.stem / name, file.images, file.path) for name in sorted(_members(archive))]
        except zipfile.BadZipFile as error:
            raise ValueError(f"{file.path}: not a readable zip archive ({error}); it may be half-written") from error
    return result


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Plain file name -> member, for the data files of an archive."""
    return {
        re.sub(r"[^\w.-]+", "_", info.filename): info
        for info in archive.infolist()
        if not info.is_dir() and Path(info.filename).suffix.lower() in KINDS and not info.filename.startswith("__MACOSX")
    }


@contextmanager
def _arrow_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not readable ({error!s:.200}); it may be half-written: download or write it again") from error


def _parquet(path: Path) -> Reader:
    import pyarrow.parquet as pq

    def opened() -> Any:
        return pq.ParquetFile(path, memory_map=True)

    with _arrow_errors(path), opened() as file:
        num_rows, columns = file.metadata.num_rows, file.schema_arrow.names
        starts = [0]
        for group in range(file.metadata.num_row_groups):
            starts.append(starts[-1] + file.metadata.row_group(group).num_rows)

    def read(start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        groups = [group for group in range(len(starts) - 1) if starts[group] < stop and starts[group + 1] > start]
        if not groups:
            return
        position = starts[groups[0]]
        with _arrow_errors(path), opened() as file:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups):
                first, last = max(start - position, 0), min(stop - position, batch.num_rows)
                position += batch.num_rows
                if first < last:
                    yield from _pylist(batch.slice(first, last - first))

    return num_rows, columns, read


def _arrow(path: Path) -> Reader:
    import pyarrow as pa

    with _arrow_errors(path):
        source = pa.memory_map(str(path))
        try:
            table = pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            table = pa.ipc.open_file(source).read_all()

    def read(start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        for first in range(start, stop, _BATCH_ROWS):
            yield from _pylist(table.slice(first, min(_BATCH_ROWS, stop - first)))

    return table.num_rows, table.column_names, read


def _pylist(rows: Any) -> list[dict[str, Any] | Skip]:
    try:
        return rows.to_pylist()
    except UnicodeDecodeError:
        if rows.num_rows == 1:
            return [NOT_UTF8]
        return [row for number in range(rows.num_rows) for row in _pylist(rows.slice(number, 1))]


def _json(path: Path) -> Reader:
    with path.open("rb") as stream:
        head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        stream.seek(0)
        places = _list_places(path, stream) if path.suffix.lower() == ".json" and head.startswith(b"[") else _line_places(stream)

    def read(start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        with path.open("rb") as stream:
            for number in range(start, stop):
                stream.seek(places[2 * number])
                text = stream.read(places[2 * number + 1]).decode("utf-8", "surrogateescape")
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{path}: row {number}: not JSON ({error!s:.200})") from error
                if not isinstance(row, dict):
                    raise SchemaError(f"{path}: row {number}: found {type(row).__name__} where a JSON object was expected")
                yield row

    num_rows = len(places) // 2
    first = next(read(0, min(1, num_rows)), {})
    return num_rows, [] if isinstance(first, Skip) else list(first), read


def _line_places(stream: BinaryIO) -> array:
    """Offset and length of each line that is not blank, one after the other."""
    places, offset = array("Q"), 0
    for line in stream:
        mark = 3 if not offset and line.startswith(b"\xef\xbb\xbf") else 0
        if line[mark:].strip():
            places.extend((offset + mark, len(line) - mark))
        offset += len(line)
    return places


def _list_places(path: Path, stream: BinaryIO) -> array:
    """Offset and length of each element of a JSON list, one after the other, without holding the list in memory."""
    # Latin-1 makes a character of every byte, so places in the text are places in the file; only the structure is looked at.
    decoder, places, text, base, wanted = json.JSONDecoder(), array("Q"), "", 0, 2**20
    position, inside = -1, False
    while True:
        block = stream.read(wanted).decode("latin-1")
        text, base, position = text[max(position, 0) :] + block, base + max(position, 0), 0 if inside else -1
        if not inside:
            position, inside = text.index("[") + 1, True
        while True:
            while position < len(text) and text[position] in " \t\r\n,":
                position += 1
            if text[position : position + 1] == "]":
                return places
            try:
                _, end = decoder.raw_decode(text, position)
            except ValueError as error:
                if not block:
                    raise ValueError(f"{path}: element {len(places) // 2} of the list: not JSON ({error!s:.100}); half-written?") from error
                break
            # A number may go on in the next block; an object cannot.
            places.extend((base + position, end - position))
            position = end
        # An element longer than the block: read twice as much next time, so that the work stays linear.
        wanted = max(2**20, len(text) - position)


def _csv(path: Path) -> Reader:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","

    def parsed(stream: BinaryIO, offset: int) -> Iterator[tuple[int, list[str]]]:
        """Each row with the offset at which it ends."""

        def lines() -> Iterator[str]:
            nonlocal offset
            for line in stream:
                offset += len(line)
                yield line.decode("utf-8", "surrogateescape")

        stream.seek(offset)
        for row in csv.reader(lines(), delimiter=delimiter, strict=True):
            if row:
                yield offset, row

    try:
        with path.open("rb") as stream:
            mark = 3 if stream.read(3) == b"\xef\xbb\xbf" else 0
            ends = array("Q")
            header: list[str] = []
            for end, row in parsed(stream, mark):
                header = header or row
                if len(row) != len(header):
                    raise ValueError(f"{path}: row {len(ends) - 1}: {len(row)} fields where the header has {len(header)}")
                ends.append(end)
    except csv.Error as error:
        raise ValueError(f"{path}: row {len(ends) - 1}: not CSV ({error})") from error

    def read(start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        with path.open("rb") as stream:
            rows = parsed(stream, ends[start]) if start < stop else iter(())
            for _, (_, row) in zip(range(start, stop), rows, strict=False):
                yield dict(zip(header, row, strict=True))

    return max(len(ends) - 1, 0), header, read


_READERS: dict[str, Callable[[Path], Reader]] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
}
