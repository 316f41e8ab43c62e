# SPDX-License-Identifier: Apache-2.0
"""Measure a model on the test split of a data folder and on benchmarks. Each of them gets a run folder OUT/<name>/ (scoring/run.py).

evaluate() judges the pairs and answers the questions. sample() samples answers and select() selects one of them. A killed command
resumes when it is run again; another model or other settings need another folder. judge_one() judges a single pair and writes no files.
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
from critic_r1_verl import benchmarks, data_folder, foreign, lines, prompts
from critic_r1_verl.answer import Policy, answer
from critic_r1_verl.critics.answers import AnswerCritic
from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Engine, Sampling, in_order
from critic_r1_verl.files import locked, read_object, replacing, write_json
from critic_r1_verl.images import READING
from critic_r1_verl.journal import MAX_REFUSED
from critic_r1_verl.judge import judge
from critic_r1_verl.lines import Answer, Judgement, Match, Selection, encode
from critic_r1_verl.prompts import Template
from critic_r1_verl.records import ORDERS, Image, PairRecord, QuestionRecord, Record, to_record, write_jsonl
from critic_r1_verl.scoring.run import CONFIG, Metrics, Run, write_metrics
from critic_r1_verl.select import usage
from critic_r1_verl.select.candidates import by_question
from critic_r1_verl.select.plan import Plan, selections_of, verdicts_of
from critic_r1_verl.select.run import judge_answers
from critic_r1_verl.verdict import THINK_TAGS

OTHER_FOLDER = "give another --out, or delete the folder"


@dataclass(frozen=True, slots=True)
class Settings:
    """Sampling, prompt templates and limits of an evaluation.

    judging and answering: how judgements and answers are sampled. template and question_template: the name or file of a template; "" for
    the one that the data folder was built with, or else for the default of this package, which offers "tie" only if some pair is a tie.
    repeats: judgements of each pair in each order. think_tags, thought_opened: how the model marks its reasoning (critics/pairwise.py).
    limit: at most so many pairs and so many questions; 0 for all. max_refused: the share of requests that a server may refuse.
    """

    judging: Sampling
    answering: Sampling
    template: str = ""
    question_template: str = ""
    repeats: int = 1
    think_tags: tuple[str, str] = THINK_TAGS
    thought_opened: bool = False
    limit: int = 0
    max_refused: float = MAX_REFUSED

    def critic(self, pairs: Iterable[PairRecord], template: Template | None = None) -> PairwiseCritic:
        """The critic for these pairs. template is the one that their data folder was built with; these settings may override it."""
        if self.template or template is None:
            default = "critic" if any(pair.preferred == "tie" for pair in pairs) else "critic_no_tie"
            template = prompts.load(self.template or default)
        return PairwiseCritic(template, self.judging, self.repeats, self.think_tags, self.thought_opened)

    def policy(self, template: Template | None = None) -> Policy:
        """The policy. template is the one that the data folder was built with; these settings may override it."""
        if self.question_template or template is None:
            template = prompts.load(self.question_template or "policy")
        return Policy(template, self.answering, self.think_tags, self.thought_opened)


@dataclass(frozen=True, slots=True)
class Place:
    """One set to measure: a benchmark, or "pairs" for a data folder or a file of records; where it is read; and its run folder.

    location "" stands for the hub id that the benchmark defines.
    """

    benchmark: str
    location: str
    run: Run

    @property
    def templates(self) -> dict[str, Template]:
        """The templates that a data folder was built with, by "pair" and "question"; empty for a benchmark or a file of records."""
        return data_folder.templates(self.location) if (Path(self.location) / data_folder.MANIFEST).is_file() else {}


def places(names: Sequence[str], data: Path | None, out: Path) -> list[Place]:
    """A Place for the test split of the data folder and for each name, which is NAME[:LOCATION] of a benchmark or a .jsonl file of records.

    ValueError for an unknown benchmark, a missing file, two sets with the same run folder, and if there is nothing to measure.
    """
    wanted = [("pairs", str(data), "test")] if data else []
    if data:
        data_folder.read_manifest(data)
    for word in names:
        is_file = Path(word).suffix == ".jsonl" and word.partition(":")[0].lower().replace("-", "_") not in benchmarks.MODULES
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
    """Write the records and images of a place to its run folder, and lock this folder while the block runs.

    limit: at most so many pairs and so many questions; 0 for all. ValueError names a malformed row, says that another process uses the
    folder, or says which setting differs from that of the run that the folder holds.
    """
    run = place.run
    file = run.folder / data_folder.RECORDS
    with locked(run.folder):
        source = {"benchmark": place.benchmark, "location": place.location, "limit": limit, "image_reading": READING}
        resumes = _is_recorded(run, "source", source)
        module = benchmarks.module(place.benchmark)
        total = max(module.PAIRS, default=None)
        loaded: Iterable[Record] = benchmarks.load(place.benchmark, run.folder, place.location)
        if hasattr(module, "questions"):
            loaded = chain(loaded, module.questions(place.location, run.folder))
        records = foreign.track(loaded, f"loading {run.name}", total)
        with replacing(file) as temporary:
            write_jsonl(temporary, _limited(records, limit) if limit else records)
            if not temporary.stat().st_size:
                raise ValueError(f"{place.location}: holds neither pairs nor questions to measure; give data with a test split")
            if resumes and not filecmp.cmp(temporary, file, shallow=False):
                raise ValueError(f"{file}: the records have changed since this run began; {OTHER_FOLDER}")
        _record(run, "source", source)
        yield run


def evaluate(engine: Engine, place: Place, settings: Settings, engine_facts: Mapping[str, Any]) -> Metrics:
    """Judge the pairs of a prepared place in both orders, answer its questions, and write and return the metrics.

    engine_facts: further settings of the engine that affect its texts, for config.json. ValueError if the folder holds a run with another
    model or other settings.
    """
    run, model = place.run, _model_config(engine, engine_facts, settings)
    built_with, questions = place.templates, run.questions
    where: dict[str, Any] = {"root": run.folder, "max_refused": settings.max_refused}
    if next(iter(run.pairs), None):
        critic = settings.critic(run.pairs, built_with.get("pair"))
        sampling = {"sampling": asdict(critic.sampling), "repeats": critic.repeats}
        _record(run, "judge", model | sampling | {"template": _template_config(critic.template)})
        with _left_out_recorded(run, engine):
            judge(run.pairs, engine, critic, run.folder / Judgement.FILE, label=f"judging {run.name}", **where)
    if questions:
        policy = settings.policy(built_with.get("question"))
        _record(run, "answer", model | {"sampling": asdict(policy.sampling), "template": _template_config(policy.template)})
        with _left_out_recorded(run, engine):
            answer(questions, engine, policy, run.folder / Answer.FILE, label=f"answering {run.name}", **where)
    return write_metrics(run)


def sample(engine: Engine, place: Place, settings: Settings, engine_facts: Mapping[str, Any]) -> None:
    """Sample the answers to the questions of a prepared place, from which select() then selects.

    engine_facts and ValueError as for evaluate(); ValueError also if there are no questions.
    """
    run = place.run
    questions = run.questions
    if not questions:
        raise ValueError(f"{run.folder}: there are no questions to answer, only pairs; give --data with a test split that has questions")
    policy = settings.policy(place.templates.get("question"))
    facts = {"sampling": asdict(policy.sampling), "template": _template_config(policy.template)}
    _record(run, "sample", _model_config(engine, engine_facts, settings) | facts)
    with _left_out_recorded(run, engine), usage.metered(run.folder, "answering", engine) as meter:
        label, limit = f"sampling {run.name}", settings.max_refused
        answers = answer(questions, meter, policy, run.folder / Answer.FILE, root=run.folder, label=label, max_refused=limit)
    usage.update(run.folder, "answering", usage.of_answers(answers))


def select(
    engine: Engine, place: Place, settings: Settings, engine_facts: Mapping[str, Any], plan: Plan, *, with_image: bool = True
) -> Metrics:
    """Select among the sampled answers of a prepared place by the methods of the plan, and write and return the metrics.

    engine: the judge. with_image: whether it is shown the images. Other methods may be added to a run; engine_facts and ValueError as for
    evaluate().
    """
    run = place.run
    critic = AnswerCritic(settings.critic((), place.templates.get("pair")), with_image)
    facts = {"sampling": asdict(critic.pairwise.sampling), "template": _template_config(critic.pairwise.template), "with_image": with_image}
    _record(run, "select", _model_config(engine, engine_facts, settings) | facts)
    questions = {question.question_id: question for question in run.questions}
    samples = by_question(lines.read(run.folder / Answer.FILE, Answer))
    with _left_out_recorded(run, engine), usage.metered(run.folder, "judging", engine) as meter:
        out, limit = run.folder / Match.FILE, settings.max_refused
        matches = judge_answers(questions, samples, plan, meter, critic, out, root=run.folder, max_refused=limit)
    usage.update(run.folder, "judging", usage.of_matches(matches))
    selections = selections_of(plan, questions.values(), samples, verdicts_of(matches))
    write_json(run.folder / CONFIG, _config(run) | {"methods": plan.to_json()})
    with replacing(run.folder / Selection.FILE) as temporary:
        temporary.write_bytes(b"".join(map(encode, selections)))
    return write_metrics(run)


def judge_one(engine: Engine, images: Sequence[Path], question: str, responses: tuple[str, str], settings: Settings) -> dict[str, Any]:
    """Judge one pair in both orders. Returns {"preferred": ..., "judgements": [...]}.

    preferred is "1", "2" or "tie", and None if the orders disagree or no verdict was parsed. It refers to the responses as given, while the
    choice of each judgement is in the shown frame of its order.
    """
    stored = tuple(Image(path=f"images/{number}", sha256="0" * 64) for number, _ in enumerate(images))
    pair = PairRecord(images=stored, question=question, response_1=responses[0], response_2=responses[1], preferred="tie", source="given")
    critic = settings.critic([pair])
    requests = [replace(critic.request(pair, order, Path()), images=tuple(images)) for order in ORDERS]
    judgements = [
        critic.judgement(pair, order, 0, completion, engine.name)
        for order, (completion,) in zip(ORDERS, in_order(engine, requests), strict=True)
    ]
    first, second = (to_record(line.order, line.choice) for line in judgements)
    # The pair has no label, so these keys carry no information.
    omitted = ("pair_id", "repeat", "correct", "preferred")
    shown = [{key: value for key, value in asdict(line).items() if key not in omitted} for line in judgements]
    return {"preferred": first if first == second else None, "judgements": shown}


def _limited(records: Iterable[Record], limit: int) -> list[Record]:
    """At most `limit` pairs and `limit` questions: those with the smallest ids, an unbiased sample because ids are hashes."""
    loaded = list(records)
    by_kind = ([record for record in loaded if isinstance(record, kind)] for kind in (PairRecord, QuestionRecord))
    return [record for of_kind in by_kind for record in heapq.nsmallest(limit, of_kind, key=lambda record: record.record_id)]


def _model_config(engine: Engine, engine_facts: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    return {"model": engine.name, "engine": dict(engine_facts), "think_tags": list(settings.think_tags)}


def _template_config(template: Template) -> dict[str, str]:
    return {"name": template.name, "sha": template.sha}


def _is_recorded(run: Run, part: str, content: Mapping[str, Any]) -> bool:
    """Whether config.json holds this part. ValueError if it holds the part with other settings."""
    config = _config(run)
    if part not in config:
        return False
    before = config[part] if isinstance(config[part], dict) else {}
    for key, value in content.items():
        if before.get(key) != value:
            if key == "image_reading":
                raise ValueError(
                    f"{run.folder / CONFIG}: made with version {before.get(key) or 1} of reading images, now it is {value}: the model "
                    f"would be shown other pixels than before (docs/data.md); {OTHER_FOLDER}"
                )
            raise ValueError(f"{run.folder / CONFIG}: made with {part}.{key} {before.get(key)!r}, now it is {value!r}; {OTHER_FOLDER}")
    return True


def _record(run: Run, part: str, content: Mapping[str, Any]) -> None:
    """Add a part to config.json, before the first line that it describes is written. ValueError as for _is_recorded."""
    if not _is_recorded(run, part, content):
        write_json(run.folder / CONFIG, _config(run) | {part: dict(content)})


@contextmanager
def _left_out_recorded(run: Run, engine: Engine) -> Iterator[None]:
    """Add what the server refused of the sampling to config.json, whether the block succeeds or not."""
    try:
        yield
    finally:
        if engine.left_out:
            config = _config(run)
            write_json(run.folder / CONFIG, config | {"left_out": sorted({*config.get("left_out", ()), *engine.left_out})})


def _config(run: Run) -> dict[str, Any]:
    file = run.folder / CONFIG
    return read_object(file, OTHER_FOLDER) if file.is_file() else {"version": critic_r1_verl.__version__}
