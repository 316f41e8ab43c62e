# SPDX-License-Identifier: Apache-2.0
"""Data files as tables with random access to rows: parquet, arrow (the cache of `datasets`), JSON lines, a JSON list, CSV, TSV.

Memory: parquet and arrow files are read a few rows at a time; of JSON lines the offset of each line is held. A JSON list, a CSV and a TSV
file are held whole, in each process that reads them, so a large corpus should be given as JSON lines or parquet.
"""

import csv
import json
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.corpus import SchemaError, Skip

NOT_UTF8 = Skip("text is not valid UTF-8")

_BATCH_ROWS = 64


class Table:
    """The rows of one data file as dicts. names: {key in the file: new key}; other keys keep their names.

    ValueError names a file that cannot be read.
    """

    def __init__(self, path: Path, names: Mapping[str, str] | None = None) -> None:
        self._names = names or {}
        self._path = path
        self._num_rows, columns, self._read = _READERS[path.suffix.lower()](path)
        self.columns = {self._names.get(name, name) for name in columns}

    def __len__(self) -> int:
        return self._num_rows

    def check_columns(self, needed: set[str], where: str) -> None:
        """Raise a SchemaError that starts with `where` if the table has rows and lacks a needed column."""
        if self._num_rows and (missing := sorted(needed - self.columns)):
            raise SchemaError(
                f"{where}: {self._path}: no column {missing[0]!r}; expected {', '.join(sorted(needed))}; "
                f"found {', '.join(sorted(self.columns))}"
            )

    def rows(self, start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        """Rows start (included) to stop (excluded), values as they are stored; a Skip for a row whose text is not UTF-8."""
        for row in self._read(start, min(stop, self._num_rows)):
            yield row if isinstance(row, Skip) else {self._names.get(name, name): value for name, value in row.items()}


Reader = tuple[int, Sequence[str], Callable[[int, int], Iterator[dict[str, Any] | Skip]]]
"""The number of rows, the columns, and a function of start and stop that reads rows."""


@contextmanager
def _arrow_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not readable ({error!s:.200}); it may be half-written: download or write it again") from error


def _parquet(path: Path) -> Reader:
    import pyarrow.parquet as pq

    open_file = partial(pq.ParquetFile, path, memory_map=True)
    with _arrow_errors(path), open_file() as file:
        num_rows, columns = file.metadata.num_rows, file.schema_arrow.names
        starts = [0]
        for group in range(file.metadata.num_row_groups):
            starts.append(starts[-1] + file.metadata.row_group(group).num_rows)

    def read(start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        groups = [group for group in range(len(starts) - 1) if starts[group] < stop and starts[group + 1] > start]
        if not groups:
            return
        position = starts[groups[0]]
        with _arrow_errors(path), open_file() as file:
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


def _json_lines(path: Path) -> Reader:
    offsets = array("Q")
    with path.open("rb") as stream:
        offset = 0
        for line in stream:
            mark = len(BOM_UTF8) if not offset and line.startswith(BOM_UTF8) else 0
            if line[mark:].strip():
                offsets.append(offset + mark)
            offset += len(line)

    def read(start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        with path.open("rb") as stream:
            for number in range(start, stop):
                stream.seek(offsets[number])
                # A byte that is not UTF-8 becomes a lone surrogate; converters skip and count such texts.
                text = stream.readline().decode("utf-8", "surrogateescape")
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{path}: row {number}: not JSON ({error!s:.200})") from error
                yield _object(path, number, row)

    first: Any = next(read(0, min(1, len(offsets))), {})
    return len(offsets), list(first), read


def _json_list(path: Path) -> Reader:
    text = path.read_bytes().removeprefix(BOM_UTF8).decode("utf-8", "surrogateescape")
    if not text.lstrip().startswith("["):
        # Some corpora give a file of JSON lines the suffix .json.
        return _json_lines(path)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON list ({error!s:.200}); it may be half-written: download or write it again") from error

    def read(start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        for number in range(start, stop):
            yield _object(path, number, rows[number])

    first: Any = next(read(0, min(1, len(rows))), {})
    return len(rows), list(first), read


def _object(path: Path, number: int, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise SchemaError(f"{path}: row {number}: found {type(row).__name__}, expected a JSON object")
    return row


def _csv(path: Path) -> Reader:
    # The default limit of 128 KiB for each field is too small for a long response.
    csv.field_size_limit(2**31 - 1)
    rows: list[list[str]] = []
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        try:
            for row in filter(None, csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)):
                if rows and len(row) != len(rows[0]):
                    raise ValueError(f"{path}: row {len(rows) - 1}: {len(row)} fields where the header has {len(rows[0])}")
                rows.append(row)
        except csv.Error as error:
            raise ValueError(f"{path}: row {len(rows) - 1}: not CSV ({error})") from error
    header, *body = rows or [[]]

    def read(start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        for row in body[start:stop]:
            yield dict(zip(header, row, strict=True))

    return len(body), header, read


_READERS: dict[str, Callable[[Path], Reader]] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".tsv": _csv,
}
KINDS = tuple(_READERS)
"""The suffixes of the files that can be read."""
