# SPDX-License-Identifier: Apache-2.0
"""A model on the test split of a data folder and on benchmarks: OUT/<name>/ becomes a run folder (scoring/run.py) for each of them.

evaluate() judges the pairs and answers the questions; select() samples answers and lets the model pick among them. The same command
resumes what a killed one left; another model or other settings need another folder. judge_one() judges a single pair, without files.
"""

import filecmp
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import critic_r1_verl
from critic_r1_verl import benchmarks, data_folder, prompts
from critic_r1_verl.answer import Policy, answer
from critic_r1_verl.benchmarks import pairs
from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Engine, Sampling, in_order
from critic_r1_verl.files import locked, replacing, write_json
from critic_r1_verl.judge import judge
from critic_r1_verl.lines import Answer, Judgement, Match, Selection, encode, to_json
from critic_r1_verl.prompts import Template
from critic_r1_verl.records import ORDERS, Image, PairRecord, Record, to_record, write_jsonl
from critic_r1_verl.scoring.run import CONFIG, Metrics, Run, read_object, write_metrics
from critic_r1_verl.select import methods
from critic_r1_verl.select.run import judge_matches
from critic_r1_verl.verdict import THINK_TAGS

OTHER_FOLDER = "give another --out, or delete the folder"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is asked.

    judging: sampling of judgements, each order `repeats` times. answering: sampling of answers. templates: a name or file, "" for the data
    folder's own, else the project's (with the tie option where there are ties). limit: so many pairs and so many questions, 0 for all.
    """

    judging: Sampling
    answering: Sampling
    template: str = ""
    question_template: str = ""
    repeats: int = 1
    think_tags: tuple[str, str] = THINK_TAGS
    limit: int = 0

    def critic(self, records: Iterable[PairRecord], own: Template | None = None) -> PairwiseCritic:
        """The critic for these pairs; own is the template that their data folder was built with."""
        if self.template or own is None:
            default = "critic" if any(pair.preferred == "tie" for pair in records) else "critic_no_tie"
            own = prompts.load(self.template or default)
        return PairwiseCritic(own, self.judging, self.repeats, self.think_tags)

    def policy(self, own: Template | None = None) -> Policy:
        """The policy; own is the template that the data folder was built with."""
        template = own if own is not None and not self.question_template else prompts.load(self.question_template or "policy")
        return Policy(template, self.answering, self.think_tags)


@dataclass(frozen=True, slots=True)
class Place:
    """A benchmark, or the data folder whose test split is taken, where it is read from ("" for the benchmark's own hub id), and its run."""

    benchmark: str
    location: str
    run: Run

    @property
    def templates(self) -> dict[str, Template]:
        """The templates of a data folder by "pair" and "question"; of a benchmark none."""
        return data_folder.templates(self.location) if (Path(self.location) / data_folder.MANIFEST).is_file() else {}


def places(names: Sequence[str], data: Path | None, out: Path) -> list[Place]:
    """One for the data folder and for each benchmark NAME[:LOCATION] or file. ValueError for an unknown one, or two of one name."""
    wanted = [("pairs", str(data), "test")] if data else []
    if data:
        data_folder.read_manifest(data)
    for word in names:
        is_file = Path(word).suffix == ".jsonl"
        name, _, location = ("pairs", "", word) if is_file else word.partition(":")
        benchmarks.module(name)
        if is_file and not Path(word).is_file():
            raise ValueError(f"{word}: no such file of records")
        if (Path(word) / data_folder.RECORDS).is_file():
            raise ValueError(f"--benchmark {word}: this is a data folder; give it as --data")
        wanted.append((name, location, Path(word).stem if is_file else name.lower().replace("-", "_")))
    if not wanted:
        raise ValueError("nothing to measure: give --data DIR for its test split, or --benchmark NAME")
    found = [Place(name, location, Run(out / folder)) for name, location, folder in wanted]
    folders = [place.run.folder for place in found]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise ValueError(f"two sets would be written to {twice[0]}; run one of them with another --out")
    return found


@contextmanager
def prepared(place: Place, limit: int) -> Iterator[Run]:
    """The run folder of a place, with its records and images written, held by this process while the block runs.

    ValueError names file, row and key, another process in the folder, or what of the folder belongs to another run.
    """
    from rich.console import Console
    from rich.progress import track

    run = place.run
    file = run.folder / data_folder.RECORDS
    with locked(run.folder):
        source = {"benchmark": place.benchmark, "location": place.location, "limit": limit}
        started = _agrees(run, "source", source)
        most = max(benchmarks.module(place.benchmark).PAIRS, default=None)
        loaded: Iterable[Record] = benchmarks.load(place.benchmark, run.folder, place.location)
        if place.benchmark == "pairs":
            loaded = chain(loaded, pairs.questions(place.location, run.folder))
        records = track(loaded, f"loading {run.name}", most, console=Console(stderr=True), transient=True)
        with replacing(file) as temporary:
            write_jsonl(temporary, _limited(records, limit) if limit else records)
            if not temporary.stat().st_size:
                raise ValueError(f"{place.location}: holds neither pairs nor questions to measure; give data with a test split")
            if started and not filecmp.cmp(temporary, file, shallow=False):
                raise ValueError(f"{file}: the records have changed since; {OTHER_FOLDER}")
        _note(run, "source", source)
        yield run


def evaluate(engine: Engine, place: Place, settings: Settings, engine_facts: Mapping[str, Any]) -> Metrics:
    """Judge the pairs of a prepared place in both orders, answer its questions, and return the metrics, which are written too.

    engine_facts: what else shapes the texts, for config.json. ValueError if the folder belongs to another model or other settings.
    """
    run, asked = place.run, {"model": engine.name, "engine": dict(engine_facts), "think_tags": list(settings.think_tags)}
    own, questions = place.templates, run.questions
    if next(iter(run.pairs), None):
        critic = settings.critic(run.pairs, own.get("pair"))
        sampling = {"sampling": asdict(critic.sampling), "repeats": critic.repeats}
        _note(run, "judge", asked | sampling | {"template": _named(critic.template)})
        judge(run.pairs, engine, critic, run.folder / Judgement.FILE, root=run.folder, label=f"judging {run.name}")
    if questions:
        policy = settings.policy(own.get("question"))
        _note(run, "answer", asked | {"sampling": asdict(policy.sampling), "template": _named(policy.template)})
        answer(questions, engine, policy, run.folder / Answer.FILE, root=run.folder, label=f"answering {run.name}")
    return write_metrics(run)


def select(engine: Engine, place: Place, settings: Settings, engine_facts: Mapping[str, Any]) -> Metrics:
    """Sample answers to the questions of a prepared place, let the model pick among them, and return the metrics, which are written too."""
    run, own = place.run, place.templates
    questions = {question.question_id: question for question in run.questions}
    if not questions:
        raise ValueError(f"{run.folder}: there are no questions to answer, only pairs; give --data with a test split that has questions")
    critic, policy = settings.critic((), own.get("pair")), settings.policy(own.get("question"))
    asked = {"model": engine.name, "engine": dict(engine_facts), "think_tags": list(settings.think_tags)}
    sampling = {"samples": asdict(policy.sampling), "judging": asdict(critic.sampling)}
    templates = {"template": _named(critic.template), "question_template": _named(policy.template)}
    _note(run, "select", asked | sampling | templates)
    folder = run.folder
    answers = answer(list(questions.values()), engine, policy, folder / Answer.FILE, root=folder, label=f"sampling {run.name}")
    samples = methods.by_question(answers)
    matches = judge_matches(questions, samples, engine, critic, folder / Match.FILE, root=folder)
    selections = methods.majority(samples) + methods.self_critique(samples, methods.verdicts_of(matches))
    with replacing(folder / Selection.FILE) as temporary:
        temporary.write_bytes(b"".join(encode(line) for line in sorted(selections, key=lambda line: line.key)))
    return write_metrics(run)


def judge_one(engine: Engine, images: Sequence[Path], question: str, responses: tuple[str, str], settings: Settings) -> dict[str, Any]:
    """Judge one pair in both orders: {"preferred": "1", "2", "tie" or None where the orders disagree, "judgements": [...]}.

    choice is in the shown frame of each judgement's order, preferred in that of the given responses.
    """
    stored = tuple(Image(path=f"images/{number}", sha256="0" * 64) for number, _ in enumerate(images))
    pair = PairRecord(images=stored, question=question, response_1=responses[0], response_2=responses[1], preferred="tie", source="given")
    critic = settings.critic([pair])
    asked = [replace(critic.request(pair, order, Path()), images=tuple(images)) for order in ORDERS]
    judgements = [
        critic.judgement(pair, order, 0, completion, engine.name)
        for order, (completion,) in zip(ORDERS, in_order(engine, asked), strict=True)
    ]
    first, second = (to_record(line.order, line.choice) for line in judgements)
    # Nobody said which response is right.
    unknown = ("pair_id", "repeat", "correct", "preferred")
    told = [{key: value for key, value in to_json(line).items() if key not in unknown} for line in judgements]
    return {"preferred": first if first == second else None, "judgements": told}


def _limited(records: Iterable[Record], limit: int) -> list[Record]:
    """At most so many pairs and so many questions. An id is a hash, so the first ones by id are a fair sample."""
    chosen: list[Record] = []
    by_kind: dict[type, list[Record]] = {}
    for record in records:
        by_kind.setdefault(type(record), []).append(record)
    for of_kind in by_kind.values():
        chosen += heapq.nsmallest(limit, of_kind, key=lambda record: record.record_id)
    return chosen


def _named(template: Template) -> dict[str, str]:
    return {"name": template.name, "sha": template.sha}


def _agrees(run: Run, part: str, content: Mapping[str, Any]) -> bool:
    """Whether this part of the run has begun; ValueError if it was with other settings."""
    if not (run.folder / CONFIG).is_file():
        return False
    old = read_object(run.folder / CONFIG, OTHER_FOLDER)
    if part not in old:
        return False
    before = old[part] if isinstance(old[part], dict) else {}
    if different := [key for key in content if before.get(key) != content[key]]:
        key = different[0]
        raise ValueError(f"{run.folder / CONFIG}: made with {part}.{key} {before.get(key)!r}, now it is {content[key]!r}; {OTHER_FOLDER}")
    return True


def _note(run: Run, part: str, content: Mapping[str, Any]) -> None:
    """Write a part of config.json, before the first line that it describes; ValueError if it began with other settings."""
    if not _agrees(run, part, content):
        file = run.folder / CONFIG
        old = read_object(file, OTHER_FOLDER) if file.is_file() else {"version": critic_r1_verl.__version__}
        write_json(file, old | {part: dict(content)})
