# SPDX-License-Identifier: Apache-2.0
"""Access to records.jsonl of a data folder by record id. Only the place of each record in the file is held in memory."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from critic_r1_verl.data_folder import RECORDS
from critic_r1_verl.records import Record, record_from_json
from critic_r1_verl.rows import Kind, kind_of


@dataclass(slots=True)
class Place:
    """Where the line of a record is (line counts from 1, start in bytes), its kind and split, and the orders of the rows found for it."""

    line: int
    start: int
    kind: Kind
    split: str
    orders: tuple[str, ...] = ()


class StoredRecords:
    """The records of a data folder. Iterate over read() once, to its end, before find(). ValueError if the file is missing."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORDS
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such file; build the data again")
        self.places: dict[str, Place] = {}
        self._stream = self.path.open("rb")

    def close(self) -> None:
        self._stream.close()

    def read(self) -> Iterator[tuple[int, Record | str]]:
        """(line number, record) for each line; for a bad line (line number, description of the problem)."""
        start = 0
        for number, line in enumerate(self._stream, start=1):
            try:
                record = record_from_json(json.loads(line.decode("utf-8")))
            except (ValueError, RecursionError) as error:
                yield number, f"not a record: {error}"
            else:
                place = self.places.setdefault(record.record_id, Place(number, start, kind_of(record), record.split))
                yield number, record if place.line == number else f"repeats the record of line {place.line}"
            start += len(line)

    def find(self, record_id: str) -> Record | None:
        """The record with this pair_id or question_id; None if there is none."""
        place = self.places.get(record_id)
        if place is None:
            return None
        self._stream.seek(place.start)
        return record_from_json(json.loads(self._stream.readline()))


def open_records(folder: Path) -> StoredRecords:
    """The records of a data folder, ready for find(). ValueError names the first bad line."""
    records = StoredRecords(folder)
    for number, found in records.read():
        if isinstance(found, str):
            raise ValueError(f"{records.path}:{number}: {found}; `critic-r1 data validate {folder}` lists all such lines")
    return records
