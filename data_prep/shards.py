# SPDX-License-Identifier: Apache-2.0
"""The conversion of one shard of raw rows into records, images and counts. It depends on a small task only, so any process can run it.

The file of a shard holds one line for each record, {record_id, kind, label, tokens, record}, and a last line {counts}. Two records of the
same content contradict each other if their labels differ. The label of a pair is "1" if the response that sorts first is the better one, so
a pair and its swap have the same label; the label of a question is its answer. tokens: {order: tokens of the prompt}, with the orders "12"
and "21" for a pair and "" for a question; empty if prompts are not measured.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from critic_r1_verl import rows
from critic_r1_verl.files import replacing
from critic_r1_verl.images import BadImage, Limits
from critic_r1_verl.prompts import Template
from critic_r1_verl.records import ORDERS, PairRecord, Record
from critic_r1_verl.tokens import Meter
from data_prep import corpora, vocabulary
from data_prep.corpus import SchemaError, Skip
from data_prep.image_store import ImageStore
from data_prep.sources import File
from data_prep.tables import Table

Counts = dict[str, Any]
"""{"read": n, "kept": n, "skipped": {reason: n}}; read is kept plus all of skipped.

For a corpus with LABEL also "read_as": {spelling=meaning: n} and "unread": {spelling: n}, its labels (vocabulary.py). For one that reads
several layouts also "layouts": {name: n}, the rows that were read in each. Where prompts were not read, "unread_prompts": {form: n} and
"first_unread_prompt", its row and file."""

TOO_LONG = "prompt too long"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Rows start (included) to stop (excluded) of one file of a corpus, and how to convert them; result is the file to write.

    columns: pairs (name in the file, name that the converter expects). answers: pairs (spelling of a label, its meaning). templates: {kind
    of record: template}.
    """

    corpus: str
    converter: str
    file: File
    columns: tuple[tuple[str, str], ...]
    answers: tuple[tuple[str, str], ...]
    start: int
    stop: int
    out: Path
    result: Path
    limits: Limits
    allow_remote: bool
    templates: Mapping[str, Template]
    meter: Meter | None
    max_prompt_tokens: int


def convert_shard(task: Task) -> Counts:
    """Convert the rows of a task and return the counts. If the result file exists, its counts are returned and nothing is converted.

    Raises SchemaError, ValueError (also for a mistake in the converter) and OSError (for example for a full disk), which name the file and
    the row.
    """
    if task.result.exists():
        return read_counts(task.result)
    module = corpora.load(task.converter)
    store = ImageStore(task.out, task.limits, task.file.images, task.allow_remote)
    label, answers = getattr(module, "LABEL", ""), dict(task.answers)
    layout_of = getattr(module, "layout", None)
    layouts: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    read_as: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    forms: Counter[str] = Counter()
    kept, first = 0, ""
    table = _table(task.file.path, task.columns, task.file.path.stat().st_mtime_ns)
    with replacing(task.result) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        for number, raw in enumerate(table.rows(task.start, task.stop), start=task.start):
            where = f"{task.corpus}: {task.file.path}: row {number}"
            mapped = vocabulary.mapped(raw, label, answers) if answers else raw
            for record in convert_row(module, mapped, store, where):
                if label:
                    vocabulary.note(raw, label, record, read_as, unread)
                if vocabulary.note_form(record, forms):
                    first = first or f"row {number} of {task.file.path.name}"
                if layout_of and not isinstance(record, Skip):
                    layouts[layout_of(mapped) + ("" if record.images else ", without an image")] += 1
                line = record if isinstance(record, Skip) else _line(record, task, store, where)
                if isinstance(line, Skip):
                    skipped[line.reason] += 1
                else:
                    stream.write(json.dumps(line, ensure_ascii=False) + "\n")
                    kept += 1
        counts = {"read": kept + skipped.total(), "kept": kept, "skipped": dict(sorted(skipped.items()))}
        if label:
            counts |= {"read_as": vocabulary.total([read_as]), "unread": vocabulary.total([unread])}
        if forms:
            counts |= {"unread_prompts": vocabulary.total([forms]), "first_unread_prompt": first}
        if layout_of:
            counts["layouts"] = vocabulary.total([layouts])
        stream.write(json.dumps({"counts": counts}, ensure_ascii=False) + "\n")
    return counts


def read_lines(result: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset in bytes, line) of each record of a finished shard."""
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
        stream.seek(max(0, result.stat().st_size - 256 * 1024))
        return json.loads(stream.readlines()[-1])["counts"]


def convert_row(module: Any, raw: dict[str, Any] | Skip, store: ImageStore, where: str) -> list[Record | Skip]:
    """What a corpus module makes of one raw row; `where` names the row in errors, which are those of convert_shard."""
    if isinstance(raw, Skip):
        return [raw]
    try:
        converted = list(module.convert(raw, store.put))
    except BadImage as error:
        return [Skip(f"image: {error.reason}")]
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}") from error
    except RecursionError:
        return [Skip("values are nested too deeply")]
    except OSError as error:
        raise OSError(f"{where}: {error}; finished shards are kept: run the same command to resume") from error
    # Any other exception is a mistake in the converter; the row is named so that it can be found.
    except Exception as error:
        raise ValueError(f"{where}: the converter failed: {type(error).__name__}: {error}") from error
    if not converted:
        raise ValueError(f"{where}: the converter returned neither a record nor a Skip")
    return [one if isinstance(one, Skip) else _trimmed(one) for one in converted]


def _trimmed(record: Record) -> Record | Skip:
    """The record without white space at the ends of its texts, where it would hide duplicates and contradictions."""
    names = ("question", "response_1", "response_2") if isinstance(record, PairRecord) else ("question", "answer")
    texts = {name: getattr(record, name).strip() for name in names}
    if all(getattr(record, name) == text for name, text in texts.items()):
        return record
    if isinstance(record, PairRecord) and record.preferred != "tie" and texts["response_1"] == texts["response_2"]:
        return Skip("identical responses")
    return replace(record, **texts)


def _line(record: Record, task: Task, store: ImageStore, where: str) -> dict[str, Any] | Skip:
    kind = rows.kind_of(record)
    orders = ORDERS if kind == "pair" else ("",)
    built = {order: rows.record_row(record, order, templates=task.templates, split="train", index=0) for order in orders}
    tokens = {}
    if task.meter:
        sizes = [store.sizes[image.sha256] for image in record.images]
        tokens = {order: task.meter.tokens(row["prompt"][0]["content"], sizes) for order, row in built.items()}
        if max(tokens.values()) > task.max_prompt_tokens:
            return Skip(TOO_LONG)
    # The images are not opened again: the store has just decoded them.
    problems = [problem for row in built.values() for problem in rows.check_row(row, task.out, open_images=False)]
    if isinstance(record, PairRecord):
        if problems:
            raise RuntimeError(f"{where}: the row that is built from it fails the check: {problems[0]}")
        label: str = record.preferred if record.response_1 <= record.response_2 else record.swap().preferred
    else:
        if problems:
            return Skip("answer does not earn the reward")
        label = record.answer
    return {"record_id": record.record_id, "kind": kind, "label": label, "tokens": tokens, "record": record.to_json()}


@lru_cache(maxsize=1)
def _table(path: Path, columns: tuple[tuple[str, str], ...], changed: int) -> Table:
    return Table(path, dict(columns))
