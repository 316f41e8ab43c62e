# SPDX-License-Identifier: Apache-2.0
"""Records -> the parquet file of one split, in flat memory, and what the manifest says about it."""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from critic_r1_verl import prompts, rows
from critic_r1_verl.records import Order, QuestionRecord, Record
from data_prep import shards

CHECKED_ROWS = 8

Entry = tuple[Record, Sequence[Order], Sequence[int]]
"""A record, the orders in which it is shown (of a question one), and its prompt's tokens in each order of shards.ORDERS, if measured."""


@contextmanager
def alone(out: Path, work: Path) -> Iterator[None]:
    """Keep other builds out of a data folder. The lock is the system's, so it ends with this process, however that ends.

    ValueError names the process that holds the folder.
    """
    import fcntl

    work.mkdir(parents=True, exist_ok=True)
    file = work / "lock"
    with file.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A build that ends takes its lock's file with it, perhaps between the two lines before.
            mine = file.exists() and os.path.samestat(os.fstat(stream.fileno()), file.stat())
        except BlockingIOError:
            mine = False
        if not mine:
            stream.seek(0)
            raise ValueError(
                f"{out}: another build writes here (process {stream.read() or 'unknown'}); wait for its end, or give another --out"
            )
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


@dataclass
class Written:
    """What went into one parquet file: rows, pairs and questions, images {path: sha256}, prompt tokens, labels as stored and as shown."""

    num_rows: int = 0
    records: Counter[str] = field(default_factory=Counter)
    images: dict[str, str] = field(default_factory=dict)
    tokens: array = field(default_factory=lambda: array("L"))
    stored: Counter[str] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)
    sample: list[rows.Row] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return {"rows": self.num_rows, "pairs": self.records["verdict"], "questions": self.records["math"]}


@dataclass(frozen=True, kw_only=True)
class Companions:
    """What a build writes beside its rows: files, images {sha256: path}, and what the manifest says of them under names of its own."""

    files: Sequence[str] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_rows(out: Path, split: str, entries: Iterable[Entry], critic: prompts.Template, policy: prompts.Template) -> Written:
    """Write out/<split>.parquet: of each pair a row for each of its orders, of each question one row."""
    written = Written()

    def stream() -> Iterator[rows.Row]:
        for record, orders, tokens in entries:
            built = shards.rows_of(record, orders, critic, policy, split=split, index=written.num_rows)
            written.num_rows += len(built)
            written.images.update((image.path, image.sha256) for image in record.images)
            style = built[0]["reward_model"]["style"]
            written.records[style] += 1
            if not isinstance(record, QuestionRecord):
                written.stored[record.preferred] += 1
                written.shown.update(row["reward_model"]["ground_truth"] for row in built)
            if tokens:
                written.tokens.extend(tokens[shards.ORDERS.index(order)] for order in orders)
            written.sample += built[: CHECKED_ROWS - len(written.sample)]
            yield from built

    rows.write_parquet(out / f"{split}.parquet", stream())
    return written


def preferred_first(written: Mapping[str, Written]) -> dict[str, dict[str, float | None]]:
    """The share of preferred responses that stand first, ties apart: before (as the corpora have them) and after (as shown), by split."""

    def share(labels: Counter[str]) -> float | None:
        decided = labels["1"] + labels["2"]
        return labels["1"] / decided if decided else None

    return {
        "before": {split: share(summary.stored) for split, summary in written.items()},
        "after": {split: share(summary.shown) for split, summary in written.items()},
    }


def image_list(hashes: Iterable[str]) -> dict[str, Any]:
    """How many images there are, and a hash of the sorted list of their hashes."""
    distinct = sorted(set(hashes))
    return {"count": len(distinct), "sha256": hashlib.sha256("\n".join(distinct).encode()).hexdigest()}


def file_sha(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of what the bytes of a build depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("pillow", "pyarrow", "tokenizers", "torch", "transformers")}


def distribution(numbers: Sequence[int]) -> dict[str, int | None]:
    """Least, median, 95th percentile and most; None of nothing."""
    ranked = sorted(numbers)

    def at(share: float) -> int | None:
        return ranked[round(share * (len(ranked) - 1))] if ranked else None

    return {"min": at(0), "median": at(0.5), "p95": at(0.95), "max": at(1)}
