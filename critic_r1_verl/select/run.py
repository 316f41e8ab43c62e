# SPDX-License-Identifier: Apache-2.0
"""Get the verdicts that a selection needs. Every one is a line of matches.jsonl, so a killed run resumes and nothing is judged twice."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from critic_r1_verl.critics.answers import AnswerCritic
from critic_r1_verl.engines.base import Completion, Engine, Request
from critic_r1_verl.journal import MAX_REFUSED, Journal, run_remaining
from critic_r1_verl.lines import Key, Match
from critic_r1_verl.records import QuestionRecord
from critic_r1_verl.select.calls import Call
from critic_r1_verl.select.candidates import candidates_of
from critic_r1_verl.select.plan import Plan, Samples, unanswered, verdicts_of

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
    """Get all verdicts that the methods of the plan need, for all questions together, round by round. Image paths are relative to root.

    Verdicts that the file `out` already holds are not asked for again; max_refused as in run_remaining. Returns the journal.
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

    candidates = {question_id: candidates_of(answers) for question_id, answers in samples.items()}
    journal = Journal(out, Match)
    number = 0
    while True:
        tasks: list[tuple[Key, _Task]] = [
            ((question_id, call.kind, call.shown, call.repeat), (questions[question_id], call))
            for question_id, call in unanswered(plan, candidates, verdicts_of(journal))
        ]
        if not tasks:
            # Writes the file even if nothing had to be judged, because a missing file would mean that verdicts are missing.
            journal.finish()
            return journal
        number += 1
        run_remaining(
            journal,
            partial(iter, tasks),
            engine,
            to_request,
            to_lines,
            f"judging, round {number}",
            unit=("verdicts", 1),
            max_refused=max_refused,
        )
