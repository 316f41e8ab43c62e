# SPDX-License-Identifier: Apache-2.0
"""Multimodal RewardBench 2: 4,000 pairs, 1,000 each of t2i, edit, interleaved and reasoning; questions and responses hold pictures.

Source: hub rl-research/multimodal-rewardbench-2 (one folder a task, split test), or {t2i,edit,interleaved,reasoning}.json as
facebookresearch/MMRB2 benchmark/ builds them. Licence: CC BY-NC 4.0, for benchmarking only. All pictures of a pair stand before the text,
first the question's, then response A's, then B's; the text names each where it stood, as [picture 2].
Metric (evaluate/compute_scores/compute_accuracy.py at 1a09882): every pair in both orders, each verdict counts by itself, a missing one
leaves the denominator, a tie stays in it; overall micro, macro the mean of the tasks. Published results: those of its
evaluate/generate_judgements.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from critic_r1_verl.benchmarks import reading, tally
from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.records import PairRecord

HUB = "rl-research/multimodal-rewardbench-2"
GROUPS = {"t2i": 1_000, "edit": 1_000, "interleaved": 1_000, "reasoning": 1_000}
FILES = ("**/*test*.parquet", " ".join(f"{task}.json" for task in GROUPS))
PAIRS = (4_000,)
# The last better_response and what stands there up to a comma, a brace or the line's end outside quotes.
_BETTER = re.compile(r""".*(?<!\w)["'“]?better_response["'”]?\s*:\s*((?>"[^"]*"|'[^']*'|[^,}\n])*)""", re.DOTALL)
# What Python takes as false.
_NOTHING = ("null", "none", "false", "0", "[]")
_PLACE = re.compile(r"<image_\d+>")

Content = list[tuple[str, Any]]
"""("text", text) and ("image", path or bytes), in their order."""


def load(location: str | Path, out: Path) -> Iterator[PairRecord]:
    return reading.records(reading.rows(location or HUB, FILES), lambda row: _convert(row, out))


def group(record: PairRecord) -> str:
    return record.category


def parse(text: str) -> str | None:
    """As json_repair reads it: quotes may be missing, the last verdict counts, one that is neither A nor B is a tie, never right.

    Of several objects with different keys it makes a list, on which the official code fails: missing there, the last verdict here.
    """
    match = _BETTER.match(text.partition("{")[2])
    value = match[1].strip() if match else ""
    return _choice("" if value.lower() in _NOTHING else value.strip("\"'“”"))


def official(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> tally.Score:
    """Of the first repeat."""
    return tally.score(_item(case.key, case.group, case.cluster, case.preferred, trials[case.pair_id][0].values()) for case in cases)


def recognises(values: Mapping[str, Any]) -> bool:
    first = next(iter(values.values()), None)
    return isinstance(first, dict) and not first.keys().isdisjoint(("forward", "reverse"))


def published(rows: list[Row]) -> tally.Published:
    """Of the objects {pair: {"forward": judgements, "reverse": judgements}} of the official code, one a task, or of a list of these.

    The labels come from the files of the official benchmark/ that lie beside.
    """
    labels, items = _labels(rows[0].folder), []
    for row in rows:
        for name in row.values:
            pair = replace(row, values=row.value(name, dict), where=f"{row.where}, pair {name!r:.80}")
            if name not in labels:
                raise ValueError(f"{pair.where}: no label in TASK.json or TASK_response_only.json beside it; put the official file there")
            items.append(_item(name, labels[name][0], name, labels[name][1], [_first(pair, order) for order in ("forward", "reverse")]))
    return tally.Published(items, tally.score(items))


def _labels(folder: Path) -> dict[str, tuple[str, str]]:
    """Of each pair its task and the better response."""
    files = {folder / f"{task}{end}.json": task for task in GROUPS for end in ("", "_response_only")}
    rows = ((row, task) for file, task in files.items() if file.is_file() for row in reading.rows(file, ()))
    return {row.value("id"): (task, "1" if row.one_of("chosen", "A", "B") == "A" else "2") for row, task in rows}


def _first(pair: Row, order: str) -> str | None:
    """The first verdict of an order, in the frame of the record; the others do not count."""
    judgements = pair.value(order, list) if order in pair.values else []
    if judgements and not isinstance(judgements[0], dict):
        raise ValueError(f"{pair.where}: key {order!r}: {judgements[0]!r:.80} is not a JSON object")
    choice = _choice(judgements[0].get("judgement")) if judgements else None
    return tally.OTHER.get(choice, choice) if order == "reverse" and choice else choice


def _item(key: str, group: str, cluster: str, preferred: str, choices: Iterable[str | None]) -> tally.Item:
    counted = [choice for choice in choices if choice is not None]
    return tally.Item(key, group, cluster, counted.count(preferred), len(counted))


def _choice(value: Any) -> str | None:
    """A verdict of the official code: A, B, nothing, or something else, which counts and is never right."""
    return "1" if value == "A" else "2" if value == "B" else "tie" if value else None


def _convert(row: Row, out: Path) -> PairRecord:
    prompt, response_a, response_b = _contents(row)
    pictures = [reading.store(row, value, out) for kind, value in prompt + response_a + response_b if kind == "image"]
    numbers = iter(range(1, len(pictures) + 1))
    question, response_1, response_2 = (_text(content, numbers) for content in (prompt, response_a, response_b))
    return PairRecord(
        images=tuple(pictures),
        question=question,
        response_1=response_1,
        response_2=response_2,
        preferred="1" if row.one_of("chosen", "A", "B", "a", "b").upper() == "A" else "2",
        source="mmrb2",
        category=_task(row),
        licence="cc-by-nc-4.0",
    )


def _task(row: Row) -> str:
    names = [part for part in (row.file.stem, *row.file.parent.parts[::-1]) if part in GROUPS]
    if not names:
        raise ValueError(f"{row.where}: neither the file nor its folder is named after a task ({', '.join(GROUPS)})")
    return names[0]


def _contents(row: Row) -> tuple[Content, Content, Content]:
    """Question and responses, from the columns of the hub or from the built JSON."""
    if "prompt_content" not in row.values:
        return _placed(row, "prompt"), _placed(row, "response_a"), _placed(row, "response_b")
    contents = [row.value("prompt_content", list)]
    contents += [row.value(f"response_{letter}", dict).get("response_content") for letter in "ab"]
    for content in contents:
        if not isinstance(content, list) or any(
            not isinstance(part, list) or len(part) != 2 or part[0] not in ("text", "image") for part in content
        ):
            raise ValueError(f'{row.where}: a content is no list of ["text" or "image", value]: {content!r:.80}')
    question, response_a, response_b = ([(kind, value) for kind, value in content] for content in contents)
    return question, response_a, response_b


def _placed(row: Row, name: str) -> Content:
    """A text with <image_N> where the pictures stand, in their order; those that have no place follow it."""
    pictures = [("image", picture) for picture in row.values.get(f"{name}_images") or []]
    content: Content = []
    for number, text in enumerate(_PLACE.split(row.values.get(f"{name}_text") or "")):
        content += pictures[number - 1 : number] if number else []
        content += [("text", text.strip())] if text.strip() else []
    placed = sum(kind == "image" for kind, _ in content)
    return content + pictures[placed:]


def _text(content: Content, numbers: Any) -> str:
    return "\n".join(f"[picture {next(numbers)}]" if kind == "image" else str(value) for kind, value in content)
