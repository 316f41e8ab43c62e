# SPDX-License-Identifier: Apache-2.0
"""Questions -> answers: one greedy, and N sampled for the selection at test time.

An answer: {question_id, kind, sample, answer, status, correct, text, completion_tokens, model, template_sha}; kind is "greedy" or "sample".
Whether it is right is decided by the reward of training, style "math".
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl.engines.base import Completion, Engine, Request, Sampling
from critic_r1_verl.journal import Journal, Key, work_off
from critic_r1_verl.prompts import Template, policy_text
from critic_r1_verl.records import QuestionRecord
from critic_r1_verl.reward import compute_score
from critic_r1_verl.verdict import parse_answer


def answer(
    questions: Sequence[QuestionRecord],
    generator: Engine,
    template: Template,
    out: Path,
    *,
    root: Path,
    samples: int,
    max_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One greedy and `samples` sampled answers to each question; images lie under root. Goes on from what out already holds."""
    samplings = {
        "greedy": Sampling(max_tokens),
        "sample": Sampling(max_tokens, temperature=temperature, seed=seed, samples=samples),
    }

    def todo() -> Iterator[tuple[Key, tuple[QuestionRecord, str]]]:
        for question in questions:
            for kind, sampling in samplings.items():
                # The last line of each piece of work tells that it is done.
                yield (question.question_id, kind, sampling.samples - 1), (question, kind)

    def ask(work: tuple[QuestionRecord, str]) -> Request:
        question, kind = work
        images = tuple(root / image.path for image in question.images)
        return Request(policy_text(question, template), images, samplings[kind], f"question {question.question_id}")

    def tell(work: tuple[QuestionRecord, str], completions: Sequence[Completion]) -> list[dict[str, Any]]:
        return [_line(*work, number, completion, generator.name, template) for number, completion in enumerate(completions)]

    journal = Journal(out, lambda line: (line["question_id"], line["kind"], line["sample"]))
    return list(work_off(journal, todo, generator, ask, tell, "answering", unit=("questions", len(samplings))))


def _line(question: QuestionRecord, kind: str, sample: int, completion: Completion, model: str, template: Template) -> dict[str, Any]:
    parsed = parse_answer(completion.text)
    reward = compute_score(question.source, completion.text, question.answer, {"style": "math"})
    return {
        "question_id": question.question_id,
        "kind": kind,
        "sample": sample,
        "answer": parsed.text,
        "status": parsed.status,
        "correct": reward["acc"] == 1.0,
        "text": completion.text,
        "completion_tokens": completion.completion_tokens,
        "model": model,
        "template_sha": template.sha,
    }
