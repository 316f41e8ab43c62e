# SPDX-License-Identifier: Apache-2.0
"""Your own questions: `--benchmark questions:FILE`, a JSONL, JSON or parquet file, or a folder with such files.

Columns: question and answer (texts), image or images (paths relative to the file, bytes or {"bytes", "path"}; none for a question without
an image), and category if there is one. An `<image>` in a question is removed, because the images come first. There are no pairs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from critic_r1_verl.benchmarks import reading
from critic_r1_verl.benchmarks.pairs import official, recognises
from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.records import PairRecord, QuestionRecord

HUB = ""
FILES = ("*.jsonl", "*.parquet", "*.json")
PAIRS = ()
GROUPS: dict[str, int | None] = {}
parse = None

__all__ = ["official", "recognises"]


def load(location: str | Path, out: Path) -> Iterator[PairRecord]:
    return iter(())


def questions(location: str | Path, out: Path) -> Iterator[QuestionRecord]:
    """The questions, with their images stored under out/images. ValueError names a row that cannot be used or is there twice."""
    if not Path(location).exists():
        raise ValueError(f"{location}: no such file or folder of questions")
    first: dict[str, str] = {}
    for row in reading.rows(location, FILES):
        record = reading.converted(row, lambda row: _convert(row, out))
        if (before := first.setdefault(record.question_id, row.where)) != row.where:
            raise ValueError(f"{row.where}: the same question as {before}; keep one of them")
        yield record


def _convert(row: Row, out: Path) -> QuestionRecord:
    images: Any = row.values.get("images", row.values.get("image"))
    given = images if isinstance(images, list) else [images] if images else []
    category = row.values.get("category")
    return QuestionRecord(
        images=tuple(reading.store(row, image, out) for image in given),
        question=row.value("question").replace("<image>", "").strip(),
        answer=row.value("answer"),
        source="questions",
        category=category if isinstance(category, str) else "",
    )
