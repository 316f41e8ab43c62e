# SPDX-License-Identifier: Apache-2.0
"""Data files as tables with random access to rows: parquet, arrow (the cache of `datasets`), JSON in lines or in a list, CSV, TSV.

Memory: parquet and arrow files are read a few rows at a time; of JSON lines the offset of each line is held. A JSON list, a CSV and a TSV
file are held whole, in each process that reads them, so a large corpus should be given as JSON lines or parquet.
"""

import csv
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from critic_r1_verl.files import RepeatedKey, parse_json
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
        if twice := sorted({name for name in columns if list(columns).count(name) > 1}):
            raise ValueError(f"{path}: the column {twice[0]!r:.80} stands twice, and one of the two would be lost; rename or remove one")
        self.columns = set(self._named(dict.fromkeys(columns)))

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
            yield row if isinstance(row, Skip) else self._named(row)

    def _named(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its new keys; a column that has such a name already gives way to the one that was given it."""
        given = {self._names[name] for name in row if name in self._names}
        return {self._names.get(name, name): value for name, value in row.items() if name in self._names or name not in given}


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


def _json(path: Path) -> Reader:
    """JSON lines, a list, or an object around one list, whatever the suffix says: people name all of them .json and .jsonl."""
    with path.open("rb") as stream:
        start = len(BOM_UTF8) if stream.read(len(BOM_UTF8)) == BOM_UTF8 else 0
        stream.seek(start)
        lines = (line for line in stream if line.strip())
        line, more = next(lines, b""), next(lines, None) is not None
    if not line:
        return 0, [], lambda start, stop: iter(())
    is_list = line.lstrip().startswith(b"[")
    if not is_list and more and _parses(line):
        return _json_lines(path, start)
    try:
        content = _parse(path.read_bytes()[start:])
    except RepeatedKey as error:
        raise ValueError(f"{path}: {error}; keep the one that is meant") from error
    except (ValueError, RecursionError) as error:
        # The line of the mistake says more than its place in the file, unless an object is written over several lines.
        if not is_list and line.strip() != b"{" and (more or path.suffix.lower() != ".json"):
            return _json_lines(path, start)
        kind = "a JSON list" if is_list else "JSON"
        raise ValueError(f"{path}: not {kind} ({error!s:.200}); it may be half-written: download or write it again") from error
    rows = content if isinstance(content, list) else _wrapped(path, content)

    def read(start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        for number in range(start, stop):
            yield _object(path, number, rows[number])

    first: Any = next(read(0, min(1, len(rows))), {})
    return len(rows), list(first), read


def _json_lines(path: Path, start: int) -> Reader:
    offsets = array("Q")
    with path.open("rb") as stream:
        stream.seek(offset := start)
        for line in stream:
            if line.strip():
                offsets.append(offset)
            offset += len(line)

    def read(start: int, stop: int) -> Iterator[dict[str, Any] | Skip]:
        with path.open("rb") as stream:
            for number in range(start, stop):
                stream.seek(offsets[number])
                try:
                    row = _parse(stream.readline())
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{path}: row {number}: not JSON ({error!s:.200}); correct or remove the row") from error
                yield _object(path, number, row)

    first: Any = next(read(0, min(1, len(offsets))), {})
    return len(offsets), list(first), read


def _parse(text: bytes) -> Any:
    # A byte that is not UTF-8 becomes a lone surrogate; converters skip and count such texts.
    return parse_json(text.decode("utf-8", "surrogateescape"))


def _parses(text: bytes) -> bool:
    try:
        _parse(text)
    except RepeatedKey:
        return True
    except (ValueError, RecursionError):
        return False
    return True


def _wrapped(path: Path, content: Any) -> list[Any]:
    """The rows of a JSON file that holds an object: the one list of rows in it, such as {"data": [...]}, or the object as the only row."""
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {type(content).__name__}, not a list of JSON objects")
    lists = {name: value for name, value in content.items() if isinstance(value, list) and value and all(map(_is_row, value))}
    if len(lists) > 1:
        names = ", ".join(f"{name!r:.80} ({len(value)} rows)" for name, value in lists.items())
        raise ValueError(f"{path}: holds several lists of rows: {names}; write each that is meant into a file of its own")
    return next(iter(lists.values()), [content])


def _is_row(value: Any) -> bool:
    """Whether an object is a row of its own; the turns of a dialogue, their parts and images are not."""
    return isinstance(value, dict) and not {"role", "from", "type", "bytes", "path", "url"} & value.keys()


def _object(path: Path, number: int, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise SchemaError(f"{path}: row {number}: found {type(row).__name__}, expected a JSON object")
    return row


def _csv(path: Path) -> Reader:
    # The default limit of 128 KiB for each field is too small for a long response.
    csv.field_size_limit(2**31 - 1)
    rows: list[list[str]] = []
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(stream.readline())
        stream.seek(0)
        try:
            for row in filter(None, csv.reader(stream, delimiter=delimiter, strict=True)):
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


def _delimiter(header: str) -> str:
    """What separates the fields of a CSV file: of comma, semicolon and tab the one that parts its header most; the comma if none does."""
    return max((",", ";", "\t"), key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


_READERS: dict[str, Callable[[Path], Reader]] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
}
KINDS = tuple(_READERS)
"""The suffixes of the files that can be read."""
