# SPDX-License-Identifier: Apache-2.0
"""Self-critique: the model judges its own sampled answers. Every match is a line of matches.jsonl, so a killed run resumes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Completion, Engine, Request
from critic_r1_verl.journal import Journal, run_remaining
from critic_r1_verl.lines import Key, Match
from critic_r1_verl.records import ORDERS, Order, PairRecord, QuestionRecord
from critic_r1_verl.select.methods import Knockout, Meeting, Samples, verdicts_of
from critic_r1_verl.verdict import without_tags


def judge_matches(
    questions: Mapping[str, QuestionRecord], samples: Samples, engine: Engine, critic: PairwiseCritic, out: Path, *, root: Path
) -> Journal[Match]:
    """Judge the meetings of every question's knock-out, round by round and in both orders. Image paths are relative to root.

    Matches that the file `out` already holds are not judged again. Returns the journal, which then holds every meeting.
    """
    knockouts = {question_id: Knockout(question_id, answers) for question_id, answers in samples.items()}
    journal = Journal(out, Match)
    number = 0
    while True:
        verdicts = verdicts_of(journal)
        meetings = {question_id: knockout.meetings(verdicts) for question_id, knockout in knockouts.items()}
        pairs = [(questions[question_id], meeting) for question_id, missing in meetings.items() for meeting in missing]
        if not pairs:
            # Writes the file even if nothing had to be judged, because a missing file would mean that matches are missing.
            journal.finish()
            return journal
        number += 1
        _judge_round(journal, pairs, engine, critic, root, f"matches, round {number}")


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


def _judge_round(
    journal: Journal[Match],
    meetings: Sequence[tuple[QuestionRecord, Meeting]],
    engine: Engine,
    critic: PairwiseCritic,
    root: Path,
    label: str,
) -> None:
    Task = tuple[QuestionRecord, Meeting, Order]

    def tasks() -> Iterator[tuple[Key, Task]]:
        for question, meeting in meetings:
            for order in ORDERS:
                yield (question.question_id, meeting[0].sample, meeting[1].sample, order), (question, meeting, order)

    def to_request(task: Task) -> Request:
        question, meeting, order = task
        return critic.request(pair_of(question, meeting), order, root)

    def to_lines(task: Task, completions: Sequence[Completion]) -> list[Match]:
        question, (first, second), order = task
        [completion] = completions
        text, verdict = critic.read(completion.text)
        return [
            Match(
                question_id=question.question_id,
                first=first.sample,
                second=second.sample,
                order=order,
                choice=verdict.choice,
                status=verdict.status,
                text=text,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
                model=engine.name,
                template_sha=critic.template.sha,
            )
        ]

    run_remaining(journal, tasks, engine, to_request, to_lines, label, unit=("matches", len(ORDERS)))
