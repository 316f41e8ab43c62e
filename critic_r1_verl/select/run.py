# SPDX-License-Identifier: Apache-2.0
"""Self-critique: the model judges its own sampled answers. Every match is a line of matches.jsonl, so a killed run resumes."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Completion, Engine, Request
from critic_r1_verl.journal import MAX_REFUSED, Journal, run_remaining
from critic_r1_verl.lines import Key, Match
from critic_r1_verl.records import ORDERS, Order, PairRecord, QuestionRecord
from critic_r1_verl.select.methods import Knockout, Meeting, Samples, verdicts_of
from critic_r1_verl.verdict import without_tags

_Task = tuple[QuestionRecord, Meeting, Order]
"""One match to judge: the question, two of its answers, and the order in which they are shown."""


def judge_matches(
    questions: Mapping[str, QuestionRecord],
    samples: Samples,
    engine: Engine,
    critic: PairwiseCritic,
    out: Path,
    *,
    root: Path,
    max_refused: float = MAX_REFUSED,
) -> Journal[Match]:
    """Judge the meetings of every question's knock-out, round by round and in both orders. Image paths are relative to root.

    Matches that the file `out` already holds are not judged again; max_refused as in run_remaining. Returns the
    journal, which then holds every meeting.
    """

    def to_request(task: _Task) -> Request:
        question, meeting, order = task
        return critic.request(pair_of(question, meeting), order, root)

    def to_lines(task: _Task, completions: Sequence[Completion]) -> list[Match]:
        question, (first, second), order = task
        [completion] = completions
        text, choice, status = critic.read(completion)
        return [
            Match(
                question_id=question.question_id,
                first=first.sample,
                second=second.sample,
                order=order,
                choice=choice,
                status=status,
                text=text,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
                model=completion.model or engine.name,
                template_sha=critic.template.sha,
            )
        ]

    knockouts = {question_id: Knockout(question_id, answers) for question_id, answers in samples.items()}
    journal = Journal(out, Match)
    number = 0
    while True:
        verdicts = verdicts_of(journal)
        tasks: list[tuple[Key, _Task]] = []
        for question_id, knockout in knockouts.items():
            for first, second in knockout.meetings(verdicts):
                for order in ORDERS:
                    tasks.append(((question_id, first.sample, second.sample, order), (questions[question_id], (first, second), order)))
        if not tasks:
            # Writes the file even if nothing had to be judged, because a missing file would mean that matches are missing.
            journal.finish()
            return journal
        number += 1
        label = f"matches, round {number}"
        unit = ("matches", len(ORDERS))
        run_remaining(journal, partial(iter, tasks), engine, to_request, to_lines, label, unit=unit, max_refused=max_refused)


def pair_of(question: QuestionRecord, meeting: Meeting) -> PairRecord:
    """A meeting as a pair for the critic: both answers with their reasoning, without the think tags. preferred has no meaning here."""
    return PairRecord(
        images=question.images,
        question=question.question,
        response_1=without_tags(meeting[0].text),
        response_2=without_tags(meeting[1].text),
        preferred="tie",
        source=question.source,
    )
