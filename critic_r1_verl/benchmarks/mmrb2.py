# SPDX-License-Identifier: Apache-2.0
"""Multimodal RewardBench 2: 4,000 pairs, 1,000 each of t2i, edit, interleaved and reasoning; questions and responses hold pictures.

Source: hub rl-research/multimodal-rewardbench-2 (a folder for each task, split test), or {t2i,edit,interleaved,reasoning}.json as built
by facebookresearch/MMRB2 benchmark/. Licence: CC BY-NC 4.0, for benchmarking only. The pictures of a pair come before its text, in the
order question, response A, response B; in the text, each is replaced by its number, as in [picture 2].
Metric (evaluate/compute_scores/compute_accuracy.py at 1a09882): each pair is judged in both orders, and each verdict counts separately. A
missing verdict leaves the denominator, a tie stays in it. overall is the micro average, macro the mean of the tasks. Published results:
those of evaluate/generate_judgements.
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
# The last key better_response and its value, which ends at a comma, a brace or a line end outside quotes.
_BETTER = re.compile(r""".*(?<!\w)["'“]?better_response["'”]?\s*:\s*((?>"[^"]*"|'[^']*'|[^,}\n])*)""", re.DOTALL)
# Values that are false in Python, so that the official code finds no verdict.
_NO_VERDICT = ("null", "none", "false", "0", "[]")
_PLACEHOLDER = re.compile(r"<image_\d+>")

Content = list[tuple[str, Any]]
"""Parts ("text", text) and ("image", path, bytes or {"bytes", "path"}), in their order."""


def parse(text: str) -> str | None:
    """The verdict as json_repair reads it: quotes may be missing, and the last verdict counts; other than A or B, it is a tie.

    If the text has several objects with different keys, json_repair returns a list and the official code finds no verdict; here, the last
    one counts.
    """
    match = _BETTER.match(text.partition("{")[2])
    value = match[1].strip() if match else ""
    return _choice("" if value.lower() in _NO_VERDICT else value.strip("\"'“”"))


def official(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> tally.Score:
    """The score of the first repeat."""
    return tally.score(case.item(*_counts(case.preferred, trials[case.pair_id][0].values())) for case in cases)


def recognises(values: Mapping[str, Any]) -> bool:
    first = next(iter(values.values()), None)
    return isinstance(first, dict) and not first.keys().isdisjoint(("forward", "reverse"))


def published(rows: list[Row]) -> tally.Published:
    """The results of the official code: an object {pair: {"forward": judgements, "reverse": judgements}} for each task, or a list of them.

    The labels are read from the official files in the same folder. ValueError names a pair without a label.
    """
    labels, items = _labels(rows[0].folder), []
    for row in rows:
        for name in row.values:
            pair = replace(row, values=row.value(name, dict), where=f"{row.where}, pair {name!r:.80}")
            if name not in labels:
                raise ValueError(f"{pair.where}: no label in TASK.json or TASK_response_only.json beside it; put the official file there")
            task, preferred = labels[name]
            counts = _counts(preferred, [_first_verdict(pair, order) for order in ("forward", "reverse")])
            items.append(tally.Item(name, task, name, *counts))
    return tally.Published(items, tally.score(items))


def _labels(folder: Path) -> dict[str, tuple[str, str]]:
    """For each pair, its task and its better response."""
    files = {folder / f"{task}{end}.json": task for task in GROUPS for end in ("", "_response_only")}
    rows = ((row, task) for file, task in files.items() if file.is_file() for row in reading.rows(file, ()))
    return {row.value("id"): (task, row.preferred("chosen", "A", "B")) for row, task in rows}


def _first_verdict(pair: Row, order: str) -> str | None:
    """The first verdict of an order, in the frame of the record; the official code ignores the others."""
    judgements = pair.value(order, list) if order in pair.values else []
    if judgements and not isinstance(judgements[0], dict):
        raise ValueError(f"{pair.where}: key {order!r}: {judgements[0]!r:.80} is not a JSON object")
    choice = _choice(judgements[0].get("judgement")) if judgements else None
    return tally.to_record("21" if order == "reverse" else "12", choice)


def _counts(preferred: str, choices: Iterable[str | None]) -> tuple[int, int]:
    """How many verdicts are right, and how many count."""
    counted = [choice for choice in choices if choice is not None]
    return counted.count(preferred), len(counted)


def _choice(value: Any) -> str | None:
    """The choice of a verdict in the official format; any value but A, B and nothing is a tie, which counts and is never right."""
    return "1" if value == "A" else "2" if value == "B" else "tie" if value else None


def convert(row: Row, out: Path) -> PairRecord:
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
        raise ValueError(f"{row.where}: neither the file nor its folder has the name of a task ({', '.join(GROUPS)})")
    return names[0]


def _contents(row: Row) -> tuple[Content, Content, Content]:
    """The question and the two responses of a row of the hub or of the built JSON files."""
    if "prompt_content" not in row.values:
        return _placed(row, "prompt"), _placed(row, "response_a"), _placed(row, "response_b")
    contents = [row.value("prompt_content", list)]
    contents += [row.value(f"response_{letter}", dict).get("response_content") for letter in "ab"]
    for content in contents:
        if not isinstance(content, list) or any(
            not isinstance(part, list) or len(part) != 2 or part[0] not in ("text", "image") for part in content
        ):
            raise ValueError(f'{row.where}: {content!r:.80} is not a list of ["text" or "image", value]')
    question, response_a, response_b = ([(kind, value) for kind, value in content] for content in contents)
    return question, response_a, response_b


def _placed(row: Row, name: str) -> Content:
    """The parts of a text in which <image_N> marks the places of the pictures; pictures without a place come after the text."""
    pictures = [("image", picture) for picture in row.values.get(f"{name}_images") or []]
    content: Content = []
    for number, text in enumerate(_PLACEHOLDER.split(row.values.get(f"{name}_text") or "")):
        content += pictures[number - 1 : number] if number else []
        content += [("text", text.strip())] if text.strip() else []
    placed = sum(kind == "image" for kind, _ in content)
    return content + pictures[placed:]


def _text(content: Content, numbers: Iterator[int]) -> str:
    return "\n".join(f"[picture {next(numbers)}]" if kind == "image" else str(value) for kind, value in content)
