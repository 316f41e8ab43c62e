# SPDX-License-Identifier: Apache-2.0
"""One shard of raw rows -> records, images and counts. A pure function of a small task, so that any engine can run it anywhere.

A shard's file holds one line a record, {pair_id, preferred, style, tokens, record}, and last a line {counts}. preferred is "1" where the
response that sorts first is the better one, so that a pair and its swap say the same; for a question it is the answer. tokens are those
of the prompt in the orders "12" and "21".
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from critic_r1_verl import rows
from critic_r1_verl.files import replacing
from critic_r1_verl.images import BadImage, Limits
from critic_r1_verl.prompts import Template
from critic_r1_verl.records import ORDERS, Order, PairRecord, QuestionRecord, Record
from critic_r1_verl.tokens import Meter
from data_prep.corpora import MODULES
from data_prep.corpus import SchemaError, Skip
from data_prep.image_store import ImageStore
from data_prep.sources import File, Table

Counts = dict[str, Any]
"""{"read", "kept", "skipped": {reason: number}}; kept + skipped = read."""

TOO_LONG = "prompt too long"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Rows start to stop of one file of a corpus, and how to convert them; result is the file to write. names: {theirs: ours}, as pairs."""

    corpus: str
    file: File
    names: tuple[tuple[str, str], ...]
    start: int
    stop: int
    out: Path
    result: Path
    limits: Limits
    allow_remote: bool
    critic: Template
    policy: Template
    meter: Meter | None
    max_prompt_tokens: int


def corpus_module(name: str) -> Any:
    """The module of a corpus. ValueError lists the names there are."""
    if name not in MODULES:
        raise ValueError(f"--corpus {name}: no such corpus; there are {', '.join(sorted(MODULES))}")
    return import_module(MODULES[name])


def convert_shard(task: Task) -> Counts:
    """Convert a task's rows and return {read, kept, skipped}; at once if its file is there already.

    SchemaError, ValueError and, of a full disk, OSError name file and row; RuntimeError is a mistake in a converter, and names them too.
    """
    if task.result.exists():
        return read_counts(task.result)
    module = corpus_module(task.corpus)
    store = ImageStore(task.out, task.limits, task.file.images, task.allow_remote)
    skipped: Counter[str] = Counter()
    kept = 0
    table = _table(task.file.path, task.names, task.file.path.stat().st_mtime_ns)
    with replacing(task.result) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        for number, raw in enumerate(table.rows(task.start, task.stop), start=task.start):
            where = f"{task.corpus}: {task.file.path}: row {number}"
            for record in [raw] if isinstance(raw, Skip) else _convert(module, raw, store, where):
                line = record if isinstance(record, Skip) else _line(record, task, store, where)
                if isinstance(line, Skip):
                    skipped[line.reason] += 1
                else:
                    stream.write(json.dumps(line, ensure_ascii=False) + "\n")
                    kept += 1
        counts = {"read": kept + skipped.total(), "kept": kept, "skipped": dict(sorted(skipped.items()))}
        stream.write(json.dumps({"counts": counts}) + "\n")
    return counts


def read_lines(result: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset, line) of each record of a finished shard."""
    offset = 0
    with result.open("rb") as stream:
        for text in stream:
            line = json.loads(text)
            if "counts" not in line:
                yield offset, line
            offset += len(text)


def read_counts(result: Path) -> Counts:
    """The counts of a finished shard, from its last line."""
    with result.open("rb") as stream:
        stream.seek(max(0, result.stat().st_size - 64 * 1024))
        return json.loads(stream.readlines()[-1])["counts"]


def record_of(line: dict[str, Any]) -> Record:
    """The record of a line."""
    return (PairRecord if line["style"] == "verdict" else QuestionRecord).from_json(line["record"])


def rows_of(record: Record, orders: Iterable[Order], critic: Template, policy: Template, *, split: str, index: int) -> list[rows.Row]:
    """The rows of a record: of a pair one for each order, numbered from index on; of a question one."""
    if isinstance(record, QuestionRecord):
        return [rows.math_row(record, template=policy, split=split, index=index)]
    return [rows.verdict_row(record, order, template=critic, split=split, index=number) for number, order in enumerate(orders, start=index)]


def _convert(module: Any, raw: dict[str, Any], store: ImageStore, where: str) -> list[Record | Skip]:
    try:
        converted = list(module.convert(raw, store.put))
    except BadImage as error:
        return [Skip(f"image: {error.reason}")]
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}") from error
    except OSError as error:
        raise OSError(f"{where}: {error}; what is done stays: the same command goes on from there") from error
    # Whatever else a converter raises is a mistake in it: the row has to be named, or nobody finds it.
    except Exception as error:
        raise RuntimeError(f"{where}: the converter failed: {type(error).__name__}: {error}") from error
    if not converted:
        raise RuntimeError(f"{where}: the converter gave neither a record nor a reason to skip")
    return converted


def _line(record: Record, task: Task, store: ImageStore, where: str) -> dict[str, Any] | Skip:
    built = rows_of(record, ORDERS, task.critic, task.policy, split="train", index=0)
    tokens = []
    if task.meter:
        sizes = [store.sizes[image.sha256] for image in record.images]
        tokens = [task.meter.tokens(row["prompt"][0]["content"], sizes) for row in built]
        if max(tokens) > task.max_prompt_tokens:
            return Skip(TOO_LONG)
    # The images were decoded a moment ago.
    problems = [problem for row in built for problem in rows.check_row(row, task.out, open_images=False)]
    if isinstance(record, PairRecord):
        if problems:
            raise RuntimeError(f"{where}: what was built from it fails: {problems[0]}")
        preferred = record.preferred if record.response_1 <= record.response_2 else record.swap().preferred
        line = {"pair_id": record.pair_id, "preferred": preferred, "style": "verdict"}
    else:
        if problems:
            return Skip("answer does not earn the reward")
        line = {"pair_id": record.question_id, "preferred": record.answer, "style": "math"}
    return {**line, "tokens": tokens, "record": record.to_json()}


@lru_cache(maxsize=4)
def _table(path: Path, names: tuple[tuple[str, str], ...], changed: int) -> Table:
    return Table(path, dict(names))
