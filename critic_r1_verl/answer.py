# SPDX-License-Identifier: Apache-2.0
"""Questions -> answers: one greedy, and N sampled for the selection at test time.

An answer: {question_id, kind, sample, answer, status, correct, text, completion_tokens, model, template_sha}; kind is "greedy" or "sample".
Whether it is right is decided by the reward of training, style "math".
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl.generate import Completion, Generator, Request, Sampling
from critic_r1_verl.journal import Journal, work_off
from critic_r1_verl.prompts import Template, policy_text
from critic_r1_verl.records import QuestionRecord
from critic_r1_verl.reward import compute_score
from critic_r1_verl.verdict import parse_answer

BATCH = 128


def answer(
    questions: Sequence[QuestionRecord],
    generator: Generator,
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

    def do(part: list[tuple[QuestionRecord, str]]) -> Iterable[list[dict[str, Any]]]:
        for kind, count, heat in (("greedy", 1, 0.0), ("sample", samples, temperature)):
            chosen = [question for question, wanted in part if wanted == kind]
            requests = [
                Request(policy_text(question, template), tuple(root / image.path for image in question.images), count)
                for question in chosen
            ]
            sampling = Sampling(max_tokens=max_tokens, temperature=heat, seed=seed)
            for question, completions in zip(chosen, generator.generate(requests, sampling), strict=True):
                yield [_line(question, kind, number, text, generator.name, template) for number, text in enumerate(completions)]

    journal = Journal(out, lambda line: (line["question_id"], line["kind"], line["sample"]))
    last = {"greedy": 0, "sample": samples - 1}
    todo = [((question.question_id, kind, last[kind]), (question, kind)) for question in questions for kind in last]
    return work_off(journal, todo, do, BATCH, "answering")


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
