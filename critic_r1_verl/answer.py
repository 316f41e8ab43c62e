# SPDX-License-Identifier: Apache-2.0
"""Questions -> answers. Whether an answer is right is decided by the reward of training, style "math"."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from critic_r1_verl.engines.base import Completion, Engine, Request, Sampling
from critic_r1_verl.journal import Journal, work_off
from critic_r1_verl.lines import Answer, Key
from critic_r1_verl.prompts import Template, policy_text
from critic_r1_verl.records import QuestionRecord
from critic_r1_verl.reward import compute_score
from critic_r1_verl.verdict import THINK_TAGS, parse_answer, with_think_tags


@dataclass(frozen=True, slots=True)
class Policy:
    """How a question is answered: the prompt, the sampling, and the tags by which the model marks its thought.

    Answers are of kind "greedy" at temperature 0, else "sample": sampling.samples of them to each question.
    """

    template: Template
    sampling: Sampling
    think_tags: tuple[str, str] = THINK_TAGS

    def __post_init__(self) -> None:
        if self.sampling.samples < 1:
            raise ValueError(f"{self.sampling.samples} samples: give 1 or more")
        if self.sampling.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(f"{self.sampling.samples} samples at temperature 0 are all the same: give a temperature above 0")

    @property
    def kind(self) -> str:
        return "sample" if self.sampling.temperature else "greedy"


def answer(
    questions: Sequence[QuestionRecord], engine: Engine, policy: Policy, out: Path, *, root: Path, label: str = "answering"
) -> Journal[Answer]:
    """Answer every question; images lie under root. Resumes from what `out` already holds, which may be answers of the other kind too."""

    def todo() -> Iterator[tuple[Key, QuestionRecord]]:
        for question in {question.question_id: question for question in questions}.values():
            # All samples of a question come in one completion and are written together, so the last one stands for all.
            yield (question.question_id, policy.kind, policy.sampling.samples - 1), question

    def ask(question: QuestionRecord) -> Request:
        images = tuple(root / image.path for image in question.images)
        return Request(policy_text(question, policy.template), images, policy.sampling, f"question {question.question_id}")

    def tell(question: QuestionRecord, completions: Sequence[Completion]) -> list[Answer]:
        return [_answer(question, sample, completion, engine.name, policy) for sample, completion in enumerate(completions)]

    return work_off(Journal(out, Answer), todo, engine, ask, tell, label, unit=("questions", 1))


def _answer(question: QuestionRecord, sample: int, completion: Completion, model: str, policy: Policy) -> Answer:
    text = with_think_tags(completion.text, policy.think_tags)
    parsed = parse_answer(text)
    reward = compute_score(question.source, text, question.answer, {"style": "math"})
    return Answer(
        question_id=question.question_id,
        kind=policy.kind,
        sample=sample,
        answer=parsed.text,
        status=parsed.status,
        correct=reward["acc"] == 1.0,
        text=text,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        model=model,
        template_sha=policy.template.sha,
    )
