# SPDX-License-Identifier: Apache-2.0
"""Self-critique: the model judges its own answers, match by match; every match is a line of matches.jsonl, so a killed run resumes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Completion, Engine, Request
from critic_r1_verl.journal import Journal, work_off
from critic_r1_verl.lines import Key, Match
from critic_r1_verl.records import ORDERS, Order, PairRecord, QuestionRecord
from critic_r1_verl.select.methods import Knockout, Meeting, Samples, verdicts_of
from critic_r1_verl.verdict import without_tags


def judge_matches(
    questions: Mapping[str, QuestionRecord], samples: Samples, engine: Engine, critic: PairwiseCritic, out: Path, *, root: Path
) -> Journal[Match]:
    """Judge, round by round, the meetings of every question's knock-out, in both orders; images lie under root.

    Resumes from what `out` already holds, and returns the journal, in which no meeting is missing.
    """
    knockouts = {question_id: Knockout(question_id, answers) for question_id, answers in samples.items()}
    journal = Journal(out, Match)
    number = 0
    while True:
        verdicts = verdicts_of(journal)
        meetings = {question_id: knockout.meetings(verdicts) for question_id, knockout in knockouts.items()}
        pairs = [(questions[question_id], meeting) for question_id, missing in meetings.items() for meeting in missing]
        if not pairs:
            # Also where nothing had to be judged: the file says that no match is missing.
            journal.finish()
            return journal
        number += 1
        _judge_round(journal, pairs, engine, critic, root, f"matches, round {number}")


def pair_of(question: QuestionRecord, meeting: Meeting) -> PairRecord:
    """A meeting as the critic is shown it: the thoughts of both answers without their tags. Which one is better is not known."""
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
    Work = tuple[QuestionRecord, Meeting, Order]

    def todo() -> Iterator[tuple[Key, Work]]:
        for question, meeting in meetings:
            for order in ORDERS:
                yield (question.question_id, meeting[0].sample, meeting[1].sample, order), (question, meeting, order)

    def ask(work: Work) -> Request:
        question, meeting, order = work
        return critic.request(pair_of(question, meeting), order, root)

    def tell(work: Work, completions: Sequence[Completion]) -> list[Match]:
        question, (first, second), order = work
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

    work_off(journal, todo, engine, ask, tell, label, unit=("matches", len(ORDERS)))
