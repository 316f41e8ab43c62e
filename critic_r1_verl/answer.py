# SPDX-License-Identifier: Apache-2.0
"""Let a model answer questions. The reward function of training, style "math", decides whether an answer is correct."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from critic_r1_verl.engines.base import Completion, Engine, Request, Sampling
from critic_r1_verl.journal import MAX_REFUSED, Journal, run_remaining
from critic_r1_verl.lines import Answer, Key, status_of
from critic_r1_verl.prompts import Template, policy_text
from critic_r1_verl.records import QuestionRecord
from critic_r1_verl.reward import compute_score
from critic_r1_verl.verdict import THINK_TAGS, as_written, parse_answer


@dataclass(frozen=True, slots=True)
class Policy:
    """How a question is answered: prompt template, sampling, and how the model marks its reasoning (critics/pairwise.py).

    Each question gets sampling.samples answers, of kind "greedy" at temperature 0 and "sample" otherwise. ValueError for fewer than one
    sample, and for several at temperature 0.
    """

    template: Template
    sampling: Sampling
    think_tags: tuple[str, str] = THINK_TAGS
    thought_opened: bool = False

    def __post_init__(self) -> None:
        if self.sampling.samples < 1:
            raise ValueError(f"{self.sampling.samples} samples: give 1 or more")
        if self.sampling.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(f"{self.sampling.samples} samples at temperature 0 are all the same: give a temperature above 0")

    @property
    def kind(self) -> str:
        return "sample" if self.sampling.temperature else "greedy"


def answer(
    questions: Sequence[QuestionRecord],
    engine: Engine,
    policy: Policy,
    out: Path,
    *,
    root: Path,
    label: str = "answering",
    max_refused: float = MAX_REFUSED,
) -> Journal[Answer]:
    """Answer every question and return the journal, sorted by key. Image paths are relative to root.

    Questions that already have answers of this kind in the file `out` are skipped; `out` may also hold answers of the other kind.
    max_refused as in run_remaining.
    """

    def tasks() -> Iterator[tuple[Key, QuestionRecord]]:
        for question in {question.question_id: question for question in questions}.values():
            # All samples of a question are written together, so the key of the last one shows that all are there.
            yield (question.question_id, policy.kind, policy.sampling.samples - 1), question

    def to_request(question: QuestionRecord) -> Request:
        images = tuple(root / image.path for image in question.images)
        return Request(policy_text(question, policy.template), images, policy.sampling, f"question {question.question_id}")

    def to_lines(question: QuestionRecord, completions: Sequence[Completion]) -> list[Answer]:
        return [_answer(question, sample, completion, engine.name, policy) for sample, completion in enumerate(completions)]

    unit = ("questions", 1)
    return run_remaining(Journal(out, Answer), tasks, engine, to_request, to_lines, label, unit=unit, max_refused=max_refused)


def _answer(question: QuestionRecord, sample: int, completion: Completion, model: str, policy: Policy) -> Answer:
    text = as_written(completion.text, policy.think_tags, policy.thought_opened)
    parsed = parse_answer(text)
    status = status_of(parsed.status, completion.end)
    reward = compute_score(question.source, text, question.answer, {"style": "math"})
    return Answer(
        question_id=question.question_id,
        kind=policy.kind,
        sample=sample,
        answer=parsed.text if status == "parsed" else None,
        status=status,
        correct=status == "parsed" and reward["acc"] == 1.0,
        text=text,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        model=completion.model or model,
        template_sha=policy.template.sha,
        image_tokens=completion.image_tokens,
    )
