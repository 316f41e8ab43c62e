# SPDX-License-Identifier: Apache-2.0
"""What a selection consists of: methods, numbers of samples and their options; and the Selections that follow from the files of a run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from critic_r1_verl import grading
from critic_r1_verl.lines import Answer, Match, Selection
from critic_r1_verl.records import QuestionRecord
from critic_r1_verl.select.budget import Budget, Verdicts, estimated_budget
from critic_r1_verl.select.calls import Call, Judge, Unanswered
from critic_r1_verl.select.candidates import Candidates, candidates_of
from critic_r1_verl.select.methods import DEFAULT, METHODS, Options, Picks
from critic_r1_verl.select.usage import added

Samples = Mapping[str, Sequence[Answer]]
"""By question_id, the sampled answers in the order of their index."""

BY_DEFAULT = ("majority", "oracle", "knockout", DEFAULT)
"""The methods that run if none is named."""


@dataclass(frozen=True, slots=True)
class Plan:
    """methods: names in METHODS. samples: each method selects among the first n samples, for each of these n. repeats: see Options.

    weight: see Options; None to estimate it, and what verdicts are worth, from the run (budget.py). ValueError for anything else.
    """

    methods: tuple[str, ...] = BY_DEFAULT
    samples: tuple[int, ...] = (8,)
    repeats: int = 1
    weight: float | None = None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"method {unknown[0]!r} is unknown; give one of {', '.join(METHODS)}")
        if not self.methods or not self.samples or min(self.samples) < 1:
            raise ValueError("give at least one method, and numbers of samples of 1 or more")
        if self.weight is not None and not 0 <= self.weight < math.inf:
            raise ValueError(f"weight {self.weight}: give 0, which trusts the votes alone, or more")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """The plan of such a dictionary. ValueError if it is none."""
        try:
            weight = None if data["weight"] is None else float(data["weight"])
            return cls(tuple(data["methods"]), tuple(data["samples"]), int(data["repeats"]), weight)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the settings of the selection are incomplete ({type(error).__name__}: {error})") from error


def call_of(match: Match) -> Call:
    return Call(match.kind, match.shown, match.repeat)


def verdicts_of(matches: Iterable[Match]) -> dict[str, dict[Call, Match]]:
    found: dict[str, dict[Call, Match]] = {}
    for match in matches:
        found.setdefault(match.question_id, {})[call_of(match)] = match
    return found


def budget_of(plan: Plan, candidates: Mapping[str, Candidates], verdicts: Verdicts) -> Budget:
    """The options of vote_then_judge for each question: those of the plan or, if it leaves the weight open, those of budget.py."""
    if DEFAULT not in plan.methods:
        return Budget({})
    if plan.weight is None:
        return estimated_budget(plan.samples, plan.repeats, candidates, verdicts)
    given = Options(plan.repeats, plan.weight, plan.weight)
    return Budget({(question_id, number): given for question_id in candidates for number in plan.samples})


def unanswered(plan: Plan, budget: Budget, question_id: str, candidates: Candidates, matches: Mapping[Call, Match]) -> list[Call]:
    """The calls, in order, that the methods need next for a question, within the budget; none if all can select."""
    missing: set[Call] = set()
    for method, number in product(plan.methods, plan.samples):
        try:
            _picks(plan, budget, question_id, method, number, candidates, matches)
        except Unanswered as more:
            missing.update(more.calls)
    return sorted(missing)


def selections_of(plan: Plan, questions: Iterable[QuestionRecord], samples: Samples, verdicts: Verdicts) -> list[Selection]:
    """The selections of all methods, sorted by key. ValueError names a question whose answers or verdicts are missing."""
    asked = list(questions)
    for question in asked:
        if len(answers := samples.get(question.question_id, ())) < max(plan.samples):
            raise ValueError(
                f"question {question.question_id}: {len(answers)} of {max(plan.samples)} samples; run `critic-r1 select` again"
            )
    candidates = {question.question_id: candidates_of(samples[question.question_id]) for question in asked}
    budget = budget_of(plan, candidates, verdicts)
    selections = []
    for question in asked:
        question_id = question.question_id
        answers, matches = samples[question_id], verdicts.get(question_id, {})
        for method, number in product(plan.methods, plan.samples):
            try:
                picks, judge = _picks(plan, budget, question_id, method, number, candidates[question_id], matches)
            except Unanswered as error:
                shown = " and ".join(map(str, error.calls[0].shown))
                raise ValueError(
                    f"question {question_id}: a verdict on the samples {shown} is missing for {method}; run `critic-r1 select` again"
                ) from error
            selections.append(_selection(question, method, answers[:number], picks, judge, matches))
    return sorted(selections, key=lambda line: line.key)


def _picks(
    plan: Plan, budget: Budget, question_id: str, method: str, number: int, candidates: Candidates, matches: Mapping[Call, Match]
) -> tuple[Picks, Judge]:
    judge = Judge({call: match.choice for call, match in matches.items()})
    options = budget.of(question_id, number) if method == DEFAULT else Options(plan.repeats)
    return METHODS[method](candidates.first(number), judge, options), judge


def _selection(
    question: QuestionRecord, method: str, answers: Sequence[Answer], picks: Picks, judge: Judge, matches: Mapping[Call, Match]
) -> Selection:
    picked = [_content(pick, answers, matches) for pick in picks]
    first = picks[0]
    return Selection(
        question_id=question.question_id,
        method=method,
        samples=len(answers),
        sample=first.shown[0] if isinstance(first, Call) else first,
        answer=picked[0],
        correct=sum(_is_right(pick, answers, content, question) for pick, content in zip(picks, picked, strict=True)) / len(picks),
        calls=len(judge.asked),
        comparisons=len(judge.compared),
        undecided=judge.undecided,
        answer_tokens=added([answers[0].prompt_tokens, *(answer.completion_tokens for answer in answers)]),
        judge_tokens=added(number for call in judge.asked for number in (matches[call].prompt_tokens, matches[call].completion_tokens)),
    )


def _content(pick: int | Call, answers: Sequence[Answer], matches: Mapping[Call, Match]) -> str | None:
    return matches[pick].choice if isinstance(pick, Call) else answers[pick].answer


def _is_right(pick: int | Call, answers: Sequence[Answer], content: str | None, question: QuestionRecord) -> float:
    if isinstance(pick, Call):
        return content is not None and grading.is_right(content, question.answer)
    return answers[pick].correct
