# SPDX-License-Identifier: Apache-2.0
"""Get the verdicts that a selection needs. Every one is a line of matches.jsonl, so a killed run resumes and nothing is judged twice."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from critic_r1_verl.critics.answers import AnswerCritic
from critic_r1_verl.engines.base import Completion, Engine, Request
from critic_r1_verl.journal import MAX_REFUSED, Journal, run_remaining
from critic_r1_verl.lines import Key, Match
from critic_r1_verl.records import QuestionRecord
from critic_r1_verl.select.calls import Call
from critic_r1_verl.select.candidates import candidates_of
from critic_r1_verl.select.plan import Plan, Samples, budget_of, call_of, unanswered, verdicts_of

_Task = tuple[QuestionRecord, Call]


def judge_answers(
    questions: Mapping[str, QuestionRecord],
    samples: Samples,
    plan: Plan,
    engine: Engine,
    critic: AnswerCritic,
    out: Path,
    *,
    root: Path,
    max_refused: float = MAX_REFUSED,
) -> Journal[Match]:
    """Get all verdicts that the methods of the plan need. Image paths are relative to root.

    All questions go on together, each as soon as it has the verdicts that it waits for, so that the engine is always full; only a wave of
    vote_then_judge (budget.py) waits for the one before. Verdicts that the file `out` already holds are not asked for again; max_refused
    as in run_remaining. Returns the journal.
    """

    def to_request(task: _Task) -> Request:
        question, call = task
        answers = [samples[question.question_id][sample].text for sample in call.shown]
        return critic.request(call.kind, question, answers, root, call.repeat)

    def to_lines(task: _Task, completions: Sequence[Completion]) -> list[Match]:
        question, call = task
        [completion] = completions
        text, choice, status = critic.read(call.kind, completion, len(call.shown))
        return [
            Match(
                question_id=question.question_id,
                kind=call.kind,
                shown=call.shown,
                repeat=call.repeat,
                choice=choice,
                status=status,
                text=text,
                prompt_tokens=completion.prompt_tokens,
                image_tokens=completion.image_tokens,
                completion_tokens=completion.completion_tokens,
                model=completion.model or engine.name,
                template_sha=critic.template(call.kind).sha,
            )
        ]

    def tasks_of(question_id: str) -> list[tuple[Key, _Task]]:
        calls = unanswered(plan, budget, question_id, candidates[question_id], verdicts.get(question_id, {}))
        num_awaited[question_id] = len(calls)
        return [((question_id, call.kind, call.shown, call.repeat), (questions[question_id], call)) for call in calls]

    def then(new: Sequence[Match]) -> list[tuple[Key, _Task]]:
        [match] = new
        verdicts.setdefault(match.question_id, {})[call_of(match)] = replace(match, text="")
        num_awaited[match.question_id] -= 1
        return [] if num_awaited[match.question_id] else tasks_of(match.question_id)

    candidates = {question_id: candidates_of(answers) for question_id, answers in samples.items()}
    num_awaited: dict[str, int] = {}
    journal = Journal(out, Match)
    # Without their texts, which would fill the memory in a long run.
    verdicts = verdicts_of(replace(match, text="") for match in journal)
    while True:
        budget = budget_of(plan, candidates, verdicts)
        tasks = [task for question_id in candidates for task in tasks_of(question_id)]
        if not tasks:
            # Writes the file even if nothing had to be judged, because a missing file would mean that verdicts are missing.
            journal.finish()
            return journal
        work = (partial(iter, tasks), engine, to_request, to_lines, "judging")
        run_remaining(journal, *work, unit=("verdicts", 1), max_refused=max_refused, then=then)
