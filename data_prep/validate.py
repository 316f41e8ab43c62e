# SPDX-License-Identifier: Apache-2.0
"""Checks a data folder from its files alone: every record, every row, every image, and that the manifest agrees with them.

    critic-r1 data validate runs/data      # exit status 0: sound; 1: problems, each with its file, row, key and a description

A row must be exactly the row that its record in records.jsonl gives, in the order of the row and with the template of the manifest. It is
also checked with the reward of training (critic_r1_verl.rows.check_row), so a row that passes can be used for training.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl.data_folder import MANIFEST, RECORDS, rows_file, templates_of
from critic_r1_verl.files import file_sha256
from critic_r1_verl.records import SPLITS, Record
from critic_r1_verl.rows import KINDS, Row, check_row, kind_of, record_row, stream_rows
from data_prep import manifest_check
from data_prep.merge import shared_things
from data_prep.notations import unpaid
from data_prep.stored_records import StoredRecords

NUM_SHOWN = 20
BATCH_SIZE = 256


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a data folder.

    file: relative to the data folder. row: counted from 0, or from 1 for a line of records.jsonl; None for the whole file. key: the pair_id
    or question_id of the record, "" if it is not known. what: the description.
    """

    file: str
    row: int | None
    key: str
    what: str

    def __str__(self) -> str:
        row = "" if self.row is None else f" {'line' if self.file == RECORDS else 'row'} {self.row}"
        return f"{self.file}{row}{f' ({self.key})' if self.key else ''}: {self.what}"


@dataclass(frozen=True, slots=True)
class Note(Problem):
    """Something that a folder may have and still be sound."""


@dataclass
class _Folder:
    """What the checks share: the records (None if they cannot be read), the manifest, templates by kind, and what was seen so far."""

    path: Path
    records: StoredRecords | None
    manifest: Mapping[str, Any]
    templates: Mapping[str, Any]
    image_hashes: dict[str, str] = field(default_factory=dict)
    seen: dict[str, manifest_check.Seen] = field(default_factory=lambda: {split: manifest_check.Seen() for split in SPLITS})


def validate(folder: Path, as_json: bool = False) -> int:
    """Print the problems of a data folder, and return the exit status: 0 if there are none, else 1.

    The text shows the first NUM_SHOWN problems and notes and the number of all; the JSON object holds all of them.
    """
    from rich.progress import Progress

    found: list[Problem] = []
    notes: list[Problem] = []
    num_problems = num_notes = 0
    with Progress(console=foreign.console(stderr=True), transient=True) as progress:
        task = progress.add_task("rows", total=sum(_num_rows(folder / rows_file(split)) for split in SPLITS))
        for problem in problems(folder, advance=lambda: progress.advance(task)):
            is_note = isinstance(problem, Note)
            num_notes += is_note
            num_problems += not is_note
            if as_json or (num_notes if is_note else num_problems) <= NUM_SHOWN:
                (notes if is_note else found).append(problem)
    if as_json:
        shown = {"problems": [asdict(problem) for problem in found], "notes": [asdict(note) for note in notes]}
        foreign.say_json({"folder": str(folder), "sound": not found, **shown})
    else:
        for problem in found:
            foreign.say(problem)
        if num_problems > NUM_SHOWN:
            foreign.say(f"... and {num_problems - NUM_SHOWN} more")
        for note in notes:
            foreign.say(f"note: {note}")
        if num_notes > NUM_SHOWN:
            foreign.say(f"... and {num_notes - NUM_SHOWN} more notes")
        foreign.say(f"{folder}: {f'{num_problems} problems' if num_problems else 'sound'}")
    return int(num_problems > 0)


def problems(folder: Path, advance: Callable[[], object] = lambda: None) -> Iterator[Problem]:
    """Yield the problems of a data folder, and notes, one by one; advance is called after each row.

    Memory use: a few hundred bytes for each record and each image.
    """
    manifest, templates = manifest_check.read(folder), {}
    if isinstance(manifest, str):
        yield Problem(MANIFEST, None, "", manifest)
        manifest = {}
    if manifest:
        try:
            templates = templates_of(manifest, MANIFEST)
        except ValueError as error:
            yield Problem(MANIFEST, None, "", str(error).removeprefix(f"{MANIFEST}: "))
    records = None
    try:
        records = StoredRecords(folder)
        yield from _record_problems(records)
    except ValueError as error:
        yield Problem(RECORDS, None, "", str(error).removeprefix(f"{folder / RECORDS}: "))
    data = _Folder(folder, records, manifest, templates)
    for split in SPLITS:
        yield from _split_problems(data, split, advance)
    if records:
        yield from _records_without_rows(data, records)
        records.close()
    if manifest:
        places = records.places.values() if records else ()
        found = manifest_check.problems(folder, manifest, data.seen, places, data.image_hashes)
        yield from (Problem(MANIFEST, None, "", what) for what in found)


def _record_problems(records: StoredRecords) -> Iterator[Problem]:
    """Lines that are not records, records without a split, and records that share an image or group with another split."""
    split_of: dict[str, str] = {}
    for number, record in records.read():
        if isinstance(record, str):
            yield Problem(RECORDS, number, "", record)
            continue
        if not record.split:
            yield Problem(RECORDS, number, record.record_id, "names no split")
            continue
        for thing in dict.fromkeys(shared_things(record.to_json())):
            if (other := split_of.setdefault(thing, record.split)) != record.split:
                what = f"is in the split {record.split}, and shares the image or group {thing:.32} with the split {other}"
                yield Problem(RECORDS, number, record.record_id, what)


def _split_problems(data: _Folder, split: str, advance: Callable[[], object]) -> Iterator[Problem]:
    file, seen = rows_file(split), data.seen[split]
    try:
        for number, (row, found) in enumerate(_checked(stream_rows(data.path / file), data.path)):
            record = data.records.find(_record_id(row)) if data.records else None
            if not found:
                found = _row_problems(data, row, record, split, number)
                if row["reward_model"]["style"] == KINDS["pair"][0]:
                    seen.labels[row["reward_model"]["ground_truth"]] += 1
                elif not found and (notations := unpaid(row["reward_model"]["ground_truth"])):
                    what = (
                        f"answer {row['reward_model']['ground_truth']!r:.80} does not earn acc 1 when it is written {', '.join(notations)}"
                    )
                    yield Note(file, number, _record_id(row), what)
            seen.num_rows += 1
            seen.sound = seen.sound and not found
            yield from (Problem(file, number, _record_id(row), what) for what in found)
            if record and data.records:
                place = data.records.places[record.record_id]
                place.orders = (*place.orders, str(row["extra_info"].get("order")))
            advance()
    except ValueError as error:
        seen.sound, seen.readable = False, False
        yield Problem(file, None, "", str(error).removeprefix(f"{data.path / file}: "))
    if seen.sound and abs(seen.labels["1"] - seen.labels["2"]) > 1:
        yield Problem(file, None, "", f"the preferred response stands first in {seen.labels['1']} rows and second in {seen.labels['2']}")


def _checked(rows: Iterable[Row], folder: Path) -> Iterator[tuple[Row, list[str]]]:
    """Each row with the problems that check_row finds. Threads check rows in parallel: decoding images releases the interpreter lock."""
    rows = iter(rows)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(rows, BATCH_SIZE)):
            yield from zip(batch, pool.map(lambda row: check_row(row, folder), batch), strict=True)


def _record_id(row: Row) -> str:
    extra = row["extra_info"]
    return str(extra.get("pair_id") or "") if isinstance(extra, dict) else ""


def _row_problems(data: _Folder, row: Row, record: Record | None, split: str, number: int) -> list[str]:
    """Problems of a well-formed row: it differs from what its record gives, or the bytes of an image differ from those of the record."""
    if data.records is None:
        return []
    if record is None:
        return [f"extra_info.pair_id names no record of {RECORDS}"]
    kind, extra = kind_of(record), row["extra_info"]
    if record.split != split:
        return [f"its record is in the split {record.split!r}"]
    if extra["style"] != KINDS[kind][0]:
        return [f"reward_model.style is {extra['style']!r}, and its record is a {kind}"]
    if extra["order"] in data.records.places[record.record_id].orders:
        return ["an earlier row shows the same record in the same order"]
    found = []
    if data.templates:
        found += _differences(row, record_row(record, extra["order"], templates=data.templates, split=split, index=number), "")
    corpora = data.manifest.get("corpora")
    if isinstance(corpora, dict) and record.source not in corpora:
        found.append(f"data_source {record.source!r} is none of the manifest's corpora")
    return found or _hash_problems(data, record)


def _hash_problems(data: _Folder, record: Record) -> list[str]:
    found = []
    for image in record.images:
        if image.path not in data.image_hashes:
            data.image_hashes[image.path] = file_sha256(data.path / image.path)
        if image.sha256 != data.image_hashes[image.path]:
            found.append(f"image {image.path!r} holds other bytes than its record says: their sha256 is {data.image_hashes[image.path]}")
    return found


def _differences(found: Any, expected: Any, where: str) -> list[str]:
    """One sentence for each place in which a row differs from the expected one. where: the place of these values in the row."""
    if isinstance(expected, dict):
        prefix = f"{where}." if where else ""
        return [text for name in expected for text in _differences(found[name], expected[name], f"{prefix}{name}")]
    if isinstance(expected, list) and len(found) == len(expected):
        pairs = zip(found, expected, strict=True)
        return [text for number, two in enumerate(pairs) for text in _differences(*two, f"{where}[{number}]")]
    if found == expected:
        return []
    if isinstance(expected, str) and max(len(found), len(expected)) > 80:
        place = next((place for place, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected)))
        part = slice(place, place + 40)
        return [f"{where} is not what its record gives: {found[part]!r} at character {place}, and should be {expected[part]!r}"]
    return [f"{where} is {found!r:.200}, and should be {expected!r:.200}"]


def _records_without_rows(data: _Folder, records: StoredRecords) -> Iterator[Problem]:
    """Records with too few or too many rows, apart from splits whose parquet file could not be read."""
    for record_id, place in records.places.items():
        if place.split not in SPLITS or not data.seen[place.split].readable:
            continue
        expected = 2 if data.manifest.get("both_orders") and place.kind == "pair" else 1
        # Without a manifest it is not known whether the build wrote both orders.
        if len(place.orders) != expected and (data.manifest or not place.orders):
            what = f"has {len(place.orders)} of {expected} rows in {rows_file(place.split)}"
            yield Problem(RECORDS, place.line, record_id, what)


def _num_rows(path: Path) -> int:
    """The number of rows that a parquet file states; 0 if it cannot be read, which the check of its rows reports."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):
        return 0
