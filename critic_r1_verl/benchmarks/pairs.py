# SPDX-License-Identifier: Apache-2.0
"""Any pairs: a JSONL file of PairRecords, or a parquet file that data_prep built (its questions without pairs are passed over).

Source and licence: as the records say. Groups: category, or source where there is none. Metric: accuracy over all judgements of both
orders; unparsed is wrong, "tie" right where the record says so.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from critic_r1_verl import prompts
from critic_r1_verl.benchmarks import reading, tally
from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.records import PairRecord
from critic_r1_verl.rows import check_row, read_rows

HUB = ""
PAIRS = ()
GROUPS: dict[str, int | None] = {}
parse = None

# What escape() made of <image>, <video>, <audio> and <|...|>: one space more on each side.
_ESCAPED = re.compile(r"< ( *(?:image|video|audio|\|[^<>|\n]*\|) *) >")
# A response that holds the template's own words can be cut in several places; this many are tried.
_MOST_CUTS = 10_000


def load(location: str | Path, out: Path) -> Iterator[PairRecord]:
    path = Path(location)
    if path.suffix == ".parquet":
        return reading.records(_verdict_rows(path), lambda row: _from_row(row, out))
    return reading.records(reading.json_lines(path), lambda row: _from_json(row, out))


def group(record: PairRecord) -> str:
    return record.category or record.source


def recognises(values: Mapping[str, Any]) -> bool:
    return False


def official(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> tally.Score:
    return tally.score(tally.drawn(trials, cases))


def _verdict_rows(path: Path) -> Iterator[Row]:
    for number, values in enumerate(read_rows(path)):
        where = f"{path}, row {number}"
        if problems := check_row(values, path.parent):
            raise ValueError(f"{where}: {problems[0]}; build the data again")
        if values["reward_model"]["style"] == "verdict":
            yield Row(values, where, path, path.parent)


def _from_json(row: Row, out: Path) -> PairRecord:
    record = PairRecord.from_json(row.values)
    images = tuple(reading.store(row, image.path, out) for image in record.images)
    if changed := [old.path for old, new in zip(record.images, images, strict=True) if old.sha256 != new.sha256]:
        raise ValueError(f"the image {changed[0]} is not the one that the record was made with (its sha256 differs)")
    return replace(record, images=images)


def _from_row(row: Row, out: Path) -> PairRecord:
    """The record of a row: what its template was filled with, told by the pair_id, which is a hash of just that."""
    extra, content = row.values["extra_info"], row.values["prompt"][-1]["content"]
    images = tuple(reading.store(row, path, out) for path in row.values["images"])
    label = row.values["reward_model"]["ground_truth"]
    cuts = _cuts(_template(row, extra["template_sha"]), content.removeprefix("<image>\n" * len(images)))
    for texts in islice(cuts, _MOST_CUTS):
        try:
            record = PairRecord(images=images, **texts, preferred=label, source=row.values["data_source"], category=extra["category"])
        except ValueError:
            # A wrong cut can leave an empty question, or twice the same response.
            continue
        if record.pair_id == extra["pair_id"]:
            return record if extra["order"] == "12" else record.swap()
    raise ValueError(f"{row.where}: its prompt and images do not give the pair {extra['pair_id']}; build the data again")


def _template(row: Row, sha: str) -> str:
    for path in Path(prompts.__file__).parent.glob("critic*.txt"):
        if (template := prompts.load(path)).sha == sha:
            return template.text
    raise ValueError(f"{row.where}: its template {sha[:12]} is none of this version's; build the data again, or give its records as JSONL")


def _cuts(template: str, text: str) -> Iterator[dict[str, str]]:
    """Every way in which the text can have come from the template: the values of its placeholders."""
    before, first, middle, second, link, third, after = re.split(r"\{(question|response_1|response_2)\}", template)
    if not text.startswith(before) or not text.endswith(after):
        return
    text = text[len(before) : len(text) - len(after)]
    for one in _places(text, middle):
        for two in _places(text, link, one + len(middle)):
            values = text[:one], text[one + len(middle) : two], text[two + len(link) :]
            yield {name: _ESCAPED.sub(r"<\1>", value) for name, value in zip((first, second, third), values, strict=True)}


def _places(text: str, part: str, start: int = 0) -> Iterator[int]:
    while (start := text.find(part, start)) != -1:
        yield start
        start += 1
