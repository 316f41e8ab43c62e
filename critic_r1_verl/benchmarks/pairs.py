# SPDX-License-Identifier: Apache-2.0
"""The pairs of a data folder (its test split) or of a JSONL file of records (all of them).

Source and licence: those of the records. Metric: accuracy over all judgements of both orders; an unparsed verdict is wrong, and "tie" is
right if it is the label. Questions beside the pairs are read by questions().
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from critic_r1_verl.benchmarks import reading, tally
from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.data_folder import RECORDS
from critic_r1_verl.records import AnyRecord, PairRecord, QuestionRecord

HUB = ""
PAIRS = ()
GROUPS: dict[str, int | None] = {}
parse = None


def load(location: str | Path, out: Path) -> Iterator[PairRecord]:
    """The pairs, with their images stored under out/images; none if there are only questions. ValueError names a bad row."""
    rows = _rows(location, questions=False)
    first = next(rows, None)
    return iter(()) if first is None else reading.records(chain([first], rows), lambda row: _stored(row, PairRecord.from_json, out))


def questions(location: str | Path, out: Path) -> Iterator[QuestionRecord]:
    """The questions beside the pairs, with their images stored under out/images. ValueError names the row that cannot be read."""
    for row in _rows(location, questions=True):
        yield reading.converted(row, lambda row: _stored(row, QuestionRecord.from_json, out))


def recognises(values: Mapping[str, Any]) -> bool:
    return False


def official(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> tally.Score:
    return tally.score(tally.drawn(trials, cases))


def _rows(location: str | Path, *, questions: bool) -> Iterator[Row]:
    path, split = Path(location), ""
    if path.is_dir():
        path, split = path / RECORDS, "test"
    for row in reading.json_lines(path):
        if ("answer" in row.values) is questions and split in ("", row.values.get("split")):
            yield row


def _stored(row: Row, from_json: Callable[[dict[str, Any]], AnyRecord], out: Path) -> AnyRecord:
    """The record of a row, with its images stored under out. ValueError if an image has changed since the record was made."""
    record = from_json(row.values)
    images = tuple(reading.store(row, image.path, out) for image in record.images)
    if changed := [old.path for old, new in zip(record.images, images, strict=True) if old.sha256 != new.sha256]:
        raise ValueError(f"the image {changed[0]} has changed since the record was made: its sha256 differs")
    return replace(record, images=images)
