# SPDX-License-Identifier: Apache-2.0
"""The benchmark items with which the records of a build are compared. A benchmark is given as one of these:

DIR                      a data folder that a build wrote: the items of its test split
FILE.jsonl               a file of records, pairs or questions or both: all of them
NAME or NAME:PATH        a public benchmark (critic_r1_verl/benchmarks/), from its hub id, or from a file or folder
CORPUS or CORPUS:PATH    a corpus, as for --corpus
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from critic_r1_verl import benchmarks, foreign
from critic_r1_verl.data_folder import RECORDS
from critic_r1_verl.images import Limits
from critic_r1_verl.records import Record, read_records
from data_prep import corpora, sources
from data_prep.corpus import Skip
from data_prep.image_store import ImageStore
from data_prep.shards import convert_row
from data_prep.tables import Table

Hit = tuple[int, str, float]
"""Position of an item, reason, score."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a benchmark, as find() compares it with records."""

    benchmark: str
    item_id: str
    images: tuple[Path, ...]
    question: str


def load(benchmark: str, work: Path, limits: Limits) -> Iterator[Item]:
    """The items of a benchmark; new pictures are stored under work. ValueError if it cannot be read or has no item that can be used."""
    converter, location = corpora.parse(benchmark)
    path = Path(benchmark)
    items: Iterator[Item]
    if converter in corpora.MODULES or converter.endswith(".py"):
        items = _from_corpus(benchmark, converter, location, work, limits)
    elif converter in benchmarks.MODULES:
        items = (_item(benchmark, record, work) for record in benchmarks.load(converter, work, location))
    elif (path / RECORDS).is_file():
        items = (_item(benchmark, record, path) for record in read_records(path / RECORDS) if record.split == "test")
    elif path.suffix == ".jsonl":
        items = (_item(benchmark, record, path.parent) for record in read_records(path))
    elif path.suffix == ".parquet":
        raise ValueError(f"--decontaminate {benchmark}: rows are not read as a benchmark; give their data folder, {path.parent}")
    else:
        raise ValueError(
            f"--decontaminate {benchmark}: give a data folder, a .jsonl file of records, or NAME[:PATH] with one of "
            f"{', '.join(sorted(corpora.MODULES.keys() | benchmarks.MODULES.keys()))}"
        )
    first = next(items, None)
    if first is None:
        raise ValueError(f"--decontaminate {benchmark}: none of its items can be used, so nothing would be compared")
    yield first
    yield from items


def _from_corpus(benchmark: str, converter: str, location: str, work: Path, limits: Limits) -> Iterator[Item]:
    """The records of a corpus as items. Rows that its converter skips are not compared; their number is printed to stderr."""
    corpus = corpora.load(converter)
    skipped: Counter[str] = Counter()
    files = sources.find(location, corpus, None, work)
    sources.unpack(files)
    for file in files:
        table = Table(file.path)
        table.check_columns(corpus.COLUMNS, f"--decontaminate {benchmark}")
        store = ImageStore(work, limits, file.images)
        for number, raw in enumerate(table.rows(0, len(table))):
            found = convert_row(corpus, raw, store, f"--decontaminate {benchmark}: {file.path}: row {number}")
            skipped.update(record.reason for record in found if isinstance(record, Skip))
            yield from (_item(benchmark, record, work) for record in found if not isinstance(record, Skip))
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
        foreign.say(f"--decontaminate {benchmark}: items left out of the comparison: {reasons}", stderr=True)


def _item(benchmark: str, record: Record, root: Path) -> Item:
    return Item(benchmark, record.record_id, tuple(root / image.path for image in record.images), record.question)
