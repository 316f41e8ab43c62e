# SPDX-License-Identifier: Apache-2.0
"""Run folders, and metrics.json: all numbers about one model on one set of pairs and questions, in one schema.

`critic-r1 eval` and `critic-r1 select` write a run folder for each set: config.json, records.jsonl, images/, the files of lines.py and, at
the end, metrics.json, which can be computed again from the others. metrics.json has the keys

    schema      2
    name        the name of the folder
    benchmark   the benchmark that defines the official score ("pairs" for the test split of a data folder)
    model       the model that was measured
    counts      {"items", "pairs", "repeats", "questions", "samples"}: several items may be the same pair; samples are those per question
    official, strict, baselines, verdicts_read_by     scores of the critic (score.py), null if no pairs were judged; of a task of lmms-eval,
                official is its own aggregate, beside our mean over the same scores in policy
    critic, policy     estimates {"value", "n", "ci95"} by measure (measures.py), null if there are no values
    notes       remarks for the reader
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic_r1_verl import benchmarks, lines
from critic_r1_verl.benchmarks import tally
from critic_r1_verl.data_folder import RECORDS
from critic_r1_verl.files import read_object, write_json
from critic_r1_verl.lines import Answer, Judgement, Match, Selection
from critic_r1_verl.records import PairRecord, QuestionRecord, RecordFile
from critic_r1_verl.scoring import judged as judging
from critic_r1_verl.scoring import measures
from critic_r1_verl.scoring.score import estimates_of, metrics_of, score
from critic_r1_verl.select.candidates import by_question, candidates_of
from critic_r1_verl.select.methods import DEFAULT
from critic_r1_verl.select.plan import Plan, budget_of, selections_of, verdicts_of

Metrics = dict[str, Any]

CONFIG, METRICS = "config.json", "metrics.json"


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder. Nothing is cached: each property and method reads the files again."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def pairs(self) -> RecordFile[PairRecord]:
        return RecordFile(self.folder / RECORDS, PairRecord)

    @property
    def questions(self) -> list[QuestionRecord]:
        return list(RecordFile(self.folder / RECORDS, QuestionRecord))

    def has(self, cls: Any) -> bool:
        """Whether there is a file of this kind of lines."""
        return (self.folder / cls.FILE).is_file()

    def judgements(self) -> Iterator[Judgement]:
        """The judgements, each checked against its record (scoring/judged.py)."""
        return judging.checked(self.folder / Judgement.FILE, self.pairs)

    def answers(self) -> list[Answer]:
        """The greedy answers and, once a selection is complete, the sampled ones."""
        found = list(lines.read(self.folder / Answer.FILE, Answer)) if self.has(Answer) else []
        return found if self.has(Selection) else [answer for answer in found if answer.kind == "greedy"]

    def matches(self) -> list[Match]:
        """The matches of a complete selection."""
        return list(lines.read(self.folder / Match.FILE, Match)) if self.has(Selection) and self.has(Match) else []

    def selections(self) -> list[Selection]:
        """The answers picked by each method, computed from the answers and matches of a complete selection."""
        if not self.has(Selection):
            return []
        return selections_of(self.plan, self.questions, by_question(self.answers()), verdicts_of(self.matches()))

    @property
    def plan(self) -> Plan:
        """The methods of a complete selection. ValueError if config.json does not hold them."""
        try:
            return Plan.from_json(self.config()["methods"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"{self.folder / CONFIG}: key 'methods' cannot be used ({error}); run `critic-r1 select` again") from error

    def config(self) -> dict[str, Any]:
        """config.json. ValueError if it is missing or not a JSON object."""
        return read_object(self.folder / CONFIG, "`critic-r1 eval` writes it")

    @property
    def benchmark(self) -> str:
        return str(self.config().get("source", {}).get("benchmark", "pairs"))

    @property
    def image_reading(self) -> int:
        """The version of the reading of images (images.py) by which the model was shown them."""
        return self.config().get("source", {}).get("image_reading", 1)


def runs_in(folder: Path) -> list[Run]:
    """The run folders at or below a folder, by name. ValueError if there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the --out folder of `critic-r1 eval`")
    found = sorted(file.parent for file in folder.rglob(CONFIG) if (file.parent / RECORDS).is_file())
    if not found:
        raise ValueError(f"{folder}: holds no run (a folder with {CONFIG} and {RECORDS}); `critic-r1 eval` writes one")
    return [Run(path) for path in found]


def metrics(run: Run) -> Metrics:
    """All numbers of a run folder, computed from its lines. ValueError names what is missing or inconsistent."""
    critic: Metrics = {"benchmark": run.benchmark, "notes": []}
    policy, questions, answers, config = None, run.questions, run.answers(), run.config()
    if run.has(Judgement):
        models: Counter[str] = Counter()
        critic = score(_counted(run.judgements(), models), run.pairs, run.benchmark)
        critic["notes"] += _models_note(models, str(config.get("judge", {}).get("model", "")))
    if answers:
        policy = estimates_of(measures.policy(questions, answers, run.selections()))
        critic["notes"] += _weight_note(run)
    if graded := config.get("lmms_eval"):
        critic |= {"official": graded["official"], "notes": critic["notes"] + graded["notes"]}
    return metrics_of(
        run.name,
        critic,
        policy,
        # The model that judged or, if nothing was judged, answered.
        model=next((str(config[part]["model"]) for part in ("judge", "answer", "sample") if part in config), ""),
        questions=len(questions) if answers else 0,
        samples=1 + max((answer.sample for answer in answers if answer.kind == "sample"), default=-1),
    )


def _weight_note(run: Run) -> list[str]:
    """A note with the weight of verdicts in vote_then_judge, if it was estimated from the run."""
    plan = run.plan if run.has(Selection) else None
    if plan is None or plan.weight is not None or DEFAULT not in plan.methods:
        return []
    candidates = {question_id: candidates_of(answers) for question_id, answers in by_question(run.answers()).items()}
    budget = budget_of(plan, candidates, verdicts_of(run.matches()))
    if not budget.num_pairs:
        return [f"{DEFAULT}: no vote was worth judging, because samples of as many tokens promise more than verdicts"]
    judged = ", ".join(f"{sum(each == number for _, each in budget.options)} votes of {number}" for number in plan.samples)
    return [
        f"{DEFAULT}: worth judging were {judged}; the weight of verdicts, estimated from the judge's agreement with itself on "
        f"{budget.num_pairs} pairs, is {budget.weight:.3f}"
    ]


def _counted(judgements: Iterator[Judgement], models: Counter[str]) -> Iterator[Judgement]:
    for line in judgements:
        models[line.model] += 1
        yield line


def _models_note(models: Counter[str], asked: str) -> list[str]:
    """A note if replies name another model than the one that was asked, or several."""
    if len(models) == 1 and asked in ("", *models):
        return []
    named = ", ".join(f"{name} ({count:,})" for name, count in models.most_common(4))
    return [f"asked for {asked}; the judgements name {named}{', ...' if len(models) > 4 else ''}"]


def write_metrics(run: Run) -> Metrics:
    """Compute the metrics of a run folder, write its metrics.json and return them."""
    found = metrics(run)
    write_json(run.folder / METRICS, found)
    return found


def measures_of(run: Run) -> dict[str, measures.Measures]:
    """The measures of a run by "critic" and "policy", for a comparison with another run. ValueError as in metrics()."""
    found = {}
    if run.has(Judgement):
        cases = tally.cases(run.pairs, benchmarks.group)
        judged = judging.judged_of(run.judgements(), None)
        judging.check_complete(judged, cases)
        found["critic"] = measures.critic(judged, judging.trials_of(judged), cases, measures.clusters_of(run.pairs))
    if answers := run.answers():
        found["policy"] = measures.policy(run.questions, answers, run.selections())
    return found
