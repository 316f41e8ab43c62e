# SPDX-License-Identifier: Apache-2.0
"""What a selection consists of: methods, numbers of samples and their options; and the Selections that follow from the files of a run."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from critic_r1_verl import grading
from critic_r1_verl.lines import Answer, Match, Selection
from critic_r1_verl.records import QuestionRecord
from critic_r1_verl.select.calls import Call, Judge, Unanswered
from critic_r1_verl.select.candidates import Candidates, candidates_of
from critic_r1_verl.select.methods import DEFAULT, METHODS, Options, Picks
from critic_r1_verl.select.skill import weight_of

Samples = Mapping[str, Sequence[Answer]]
"""By question_id, the sampled answers in the order of their index."""

Verdicts = Mapping[str, Mapping[Call, Match]]
"""By question_id, the match of each call."""

BY_DEFAULT = ("majority", "oracle", "knockout", DEFAULT)
"""The methods that run if none is named."""


@dataclass(frozen=True, slots=True)
class Plan:
    """methods: names in METHODS. samples: each method selects among the first n samples, for each of these n. repeats: see Options.

    weight: see Options; None to estimate it from the verdicts of the run (skill.py). ValueError for anything else.
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

    @property
    def options(self) -> Options:
        """The options with which verdicts are asked for."""
        return Options(self.repeats) if self.weight is None else Options(self.repeats, self.weight, self.weight)

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


def verdicts_of(matches: Iterable[Match]) -> dict[str, dict[Call, Match]]:
    found: dict[str, dict[Call, Match]] = {}
    for match in matches:
        found.setdefault(match.question_id, {})[Call(match.kind, match.shown, match.repeat)] = match
    return found


def unanswered(plan: Plan, candidates: Mapping[str, Candidates], verdicts: Verdicts) -> Iterator[tuple[str, Call]]:
    """The calls, with their question_id, that the methods need next; none if all can select."""
    for question_id, of_question in candidates.items():
        missing: set[Call] = set()
        for method, num_samples in _tasks(plan, of_question):
            try:
                _picks(plan.options, method, of_question.first(num_samples), verdicts.get(question_id, {}))
            except Unanswered as more:
                missing.update(more.calls)
        yield from ((question_id, call) for call in sorted(missing))


def selections_of(plan: Plan, questions: Iterable[QuestionRecord], samples: Samples, verdicts: Verdicts) -> list[Selection]:
    """The selections of all methods, sorted by key. ValueError names a question whose answers or verdicts are missing."""
    asked = list(questions)
    for question in asked:
        if len(answers := samples.get(question.question_id, ())) < max(plan.samples):
            raise ValueError(
                f"question {question.question_id}: {len(answers)} of {max(plan.samples)} samples; run `critic-r1 select` again"
            )
    candidates = {question.question_id: candidates_of(samples[question.question_id]) for question in asked}
    options = {num_samples: final_options(plan, num_samples, candidates, verdicts) for num_samples in plan.samples}
    selections = []
    for question in asked:
        question_id = question.question_id
        answers, matches = samples[question_id], verdicts.get(question_id, {})
        for method, num_samples in _tasks(plan, candidates[question_id]):
            try:
                picks, judge = _picks(options[num_samples], method, candidates[question_id].first(num_samples), matches)
            except Unanswered as error:
                shown = " and ".join(map(str, error.calls[0].shown))
                raise ValueError(
                    f"question {question_id}: a verdict on the samples {shown} is missing for {method}; run `critic-r1 select` again"
                ) from error
            selections.append(_selection(question, method, answers[:num_samples], picks, judge, matches))
    return sorted(selections, key=lambda line: line.key)


def _tasks(plan: Plan, candidates: Candidates) -> list[tuple[str, int]]:
    return [(method, min(number, candidates.num_samples)) for method in plan.methods for number in plan.samples]


def final_options(plan: Plan, num_samples: int, candidates: Mapping[str, Candidates], verdicts: Verdicts) -> Options:
    """The options of the plan or, if it leaves the weight open, with the weight that the verdicts of vote_then_judge allow."""
    if plan.weight is not None or DEFAULT not in plan.methods:
        return plan.options
    shown = []
    for question_id, of_question in candidates.items():
        with suppress(Unanswered):
            _, judge = _picks(plan.options, DEFAULT, of_question.first(num_samples), verdicts.get(question_id, {}))
            # The two orders of the first match, which is that of the two largest groups.
            shown.append(tuple(verdicts[question_id][call].choice for call in list(judge.asked)[:2]))
    return replace(plan.options, weight=weight_of((first, second) for first, second in filter(None, shown)))


def _picks(options: Options, method: str, candidates: Candidates, matches: Mapping[Call, Match]) -> tuple[Picks, Judge]:
    judge = Judge({call: match.choice for call, match in matches.items()})
    return METHODS[method](candidates, judge, options), judge


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


def added(numbers: Iterable[int | None]) -> int | None:
    """The sum, None if a number is not known."""
    known = list(numbers)
    return None if None in known else sum(number for number in known if number is not None)


def _content(pick: int | Call, answers: Sequence[Answer], matches: Mapping[Call, Match]) -> str | None:
    return matches[pick].choice if isinstance(pick, Call) else answers[pick].answer


def _is_right(pick: int | Call, answers: Sequence[Answer], content: str | None, question: QuestionRecord) -> float:
    if isinstance(pick, Call):
        return content is not None and grading.is_right(content, question.answer)
    return answers[pick].correct
