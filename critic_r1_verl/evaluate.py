# SPDX-License-Identifier: Apache-2.0
"""A critic on benchmarks: OUT/<benchmark>/ holds config.json, records.jsonl, images/, judgements.jsonl and, at the end, score.json.

The same command goes on with what a killed run left; another model or other settings want another folder. judge_one is the same for a
single pair, without files.
"""

import fcntl
import filecmp
import heapq
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from critic_r1_verl import benchmarks, prompts
from critic_r1_verl.engines.base import Engine, Sampling, in_order
from critic_r1_verl.files import replacing
from critic_r1_verl.judge import ORDERS, THINK_TAGS, Protocol, judge, judgement, request
from critic_r1_verl.records import Image, PairRecord, RecordFile, write_jsonl
from critic_r1_verl.scoring import score as scores

JUDGEMENTS, SCORE, CONFIG = "judgements.jsonl", "score.json", "config.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """template: a name or file, "" for the project's own (with the tie option where a benchmark has ties); limit: pairs, 0 for all."""

    sampling: Sampling
    template: str = ""
    repeats: int = 1
    think_tags: tuple[str, str] = THINK_TAGS
    limit: int = 0

    def protocol(self, records: Iterable[PairRecord]) -> Protocol:
        own = "critic" if any(record.preferred == "tie" for record in records) else "critic_no_tie"
        return Protocol(prompts.load(self.template or own), self.sampling, self.repeats, self.think_tags)


@dataclass(frozen=True, slots=True)
class Place:
    """A benchmark by its name or file, where it is read from ("" for its own hub id), and the folder that is written."""

    name: str
    location: str
    folder: Path


def places(names: Sequence[str], out: Path) -> list[Place]:
    """One for each NAME[:LOCATION]. ValueError for an unknown one, or two of one name."""
    found: list[Place] = []
    for word in names:
        is_file = Path(word).suffix in (".jsonl", ".parquet")
        name, _, location = (word, "", "") if is_file else word.partition(":")
        benchmarks.module(name)
        if is_file and not Path(word).is_file():
            raise ValueError(f"{word}: no such file of pairs")
        folder = out / (Path(name).stem if is_file else name.lower().replace("-", "_"))
        if folder in (place.folder for place in found):
            raise ValueError(f"{word}: a second benchmark that would be written to {folder}; run it with another --out")
        found.append(Place(name, location, folder))
    return found


@contextmanager
def loaded(place: Place, settings: Settings) -> Iterator[RecordFile[PairRecord]]:
    """The benchmark's records, written with their images into its folder, which is this process's while the block runs.

    ValueError names file, row and key, another process in the folder, or what of the folder is another run's.
    """
    from rich.console import Console
    from rich.progress import track

    file = place.folder / scores.RECORDS
    with _alone(place.folder):
        started = _agrees(place.folder, _asked(place, settings))
        rows = benchmarks.load(place.name, place.folder, place.location)
        most = max(benchmarks.module(place.name).PAIRS, default=None)
        records: Iterable[PairRecord] = track(rows, f"loading {place.folder.name}", most, console=Console(stderr=True), transient=True)
        if settings.limit:
            # An id is a hash: the first ones are a fair sample.
            records = heapq.nsmallest(settings.limit, records, key=lambda record: record.pair_id)
        with replacing(file) as temporary:
            write_jsonl(temporary, records)
            if started and not filecmp.cmp(temporary, file, shallow=False):
                raise ValueError(f"{file}: the benchmark has changed since; give another --out, or delete the folder")
        yield RecordFile(file, PairRecord)


def evaluate(
    generator: Engine, place: Place, records: RecordFile[PairRecord], settings: Settings, engine: Mapping[str, Any]
) -> scores.Score:
    """Judge the records of loaded(), or go on with it, and return their score.

    engine: what else shapes the texts, for config.json. ValueError if the folder is of another model, benchmark or setting.
    """
    protocol = settings.protocol(records)
    folder = place.folder
    config = _asked(place, settings) | {
        "model": generator.name,
        "engine": dict(engine),
        "template": {"name": protocol.template.name, "sha": protocol.template.sha},
    }
    _agrees(folder, config)
    _write_json(folder / CONFIG, config)
    judgements = judge(records, generator, protocol, folder / JUDGEMENTS, root=folder, label=folder.name)
    score = scores.score(judgements, records, place.name) | {"benchmark": folder.name}
    _write_json(folder / SCORE, score)
    return score


def judge_one(generator: Engine, images: Sequence[Path], question: str, responses: tuple[str, str], settings: Settings) -> dict[str, Any]:
    """Judge one pair in both orders: {"preferred": "1", "2", "tie" or None where the orders disagree, "judgements": [...]}.

    choice is in the shown frame of each judgement's order, preferred in that of the given responses.
    """
    stored = tuple(Image(path=f"images/{number}", sha256="0" * 64) for number, _ in enumerate(images))
    pair = PairRecord(images=stored, question=question, response_1=responses[0], response_2=responses[1], preferred="tie", source="given")
    protocol = settings.protocol([pair])
    asked = [replace(request(pair, order, protocol, Path()), images=tuple(images)) for order in ORDERS]
    lines = []
    for order, (completion,) in zip(ORDERS, in_order(generator, asked), strict=True):
        line = judgement(pair, order, 0, completion, generator.name, protocol)
        # Nobody said which response is right.
        lines.append({key: value for key, value in line.items() if key not in ("pair_id", "repeat", "correct", "preferred")})
    first, second = (line["choice"] for line in lines)
    agreed = {("1", "2"): "1", ("2", "1"): "2", ("tie", "tie"): "tie"}
    return {"preferred": agreed.get((first, second)), "judgements": lines}


def show_summary(results: Sequence[scores.Score]) -> None:
    """Print one line for each benchmark."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("percent", "items", "official", "strict", "95 % interval", "consistent", "says first", "unparsed"):
        table.add_column(name, justify="left" if name == "percent" else "right")
    for result in results:
        estimates = result["estimates"]
        strict = estimates["strict"]
        low, high = strict["ci95"]
        table.add_row(
            result["benchmark"],
            str(result["items"]),
            scores.percent(result["official"]["overall"]),
            scores.percent(strict["value"]),
            f"[{100 * low:.1f}, {100 * high:.1f}]",
            *(scores.percent((estimates[key] or {}).get("value")) for key in ("position_consistency", "first_share", "unparsed")),
        )
    Console(highlight=False).print(table)


def show_one(result: dict[str, Any]) -> None:
    """Print what judge_one returns: each text as the model wrote it, its verdict, and what both orders say."""
    from rich.console import Console
    from rich.markup import escape
    from rich.panel import Panel

    console = Console(highlight=False)
    swapped = {"1": "2", "2": "1"}
    for line in result["judgements"]:
        shown = "response 1 first" if line["order"] == "12" else "response 2 first"
        choice = line["choice"] if line["order"] == "12" else swapped.get(line["choice"], line["choice"])
        verdict = {None: f"no verdict ({line['status']})", "tie": "a tie"}.get(choice, f"response {choice}")
        console.print(Panel(escape(line["text"].strip()) or "(empty)", title=f"{shown}: {verdict}", title_align="left"))
    preferred = result["preferred"]
    agreed = {None: "undecided: the two orders do not agree on a verdict", "tie": "a tie, in both orders"}
    console.print(agreed.get(preferred, f"response {preferred} is better, in both orders"))


def _asked(place: Place, settings: Settings) -> dict[str, Any]:
    """What of config.json is known before the model is."""
    return {
        "benchmark": place.name,
        "location": place.location,
        "sampling": asdict(settings.sampling),
        "repeats": settings.repeats,
        "think_tags": list(settings.think_tags),
        "limit": settings.limit,
    }


def _agrees(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the folder's run has begun; ValueError if it was with other settings."""
    file = folder / CONFIG
    if not file.is_file():
        return False
    try:
        old = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not as this program writes it ({error}); give another --out, or delete the folder") from error
    if different := [key for key in config if old.get(key) != config[key]]:
        key = different[0]
        raise ValueError(f"{file}: made with {key} {old.get(key)!r}, now it is {config[key]!r}; give another --out, or delete the folder")
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder while the block runs; a process that dies lets it go."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder}: another run writes here; wait for its end, or give another --out") from error
        yield
    finally:
        os.close(held)


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
