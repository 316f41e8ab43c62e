# SPDX-License-Identifier: Apache-2.0
"""Pairs x both orders -> judgements, one line each, as they arrive.

A judgement: {pair_id, order, repeat, choice, status, correct, preferred, text, prompt_tokens, completion_tokens, model, template_sha}.
choice and preferred are in the shown frame of `order`; what cannot be parsed is wrong, never guessed.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl.generate import Completion, Generator, Request, Sampling
from critic_r1_verl.journal import Journal, work_off
from critic_r1_verl.prompts import Order, Template, critic_text
from critic_r1_verl.records import PairRecord
from critic_r1_verl.verdict import parse_verdict

ORDERS: tuple[Order, ...] = ("12", "21")
BATCH = 256


def judge(
    pairs: Sequence[PairRecord], generator: Generator, template: Template, out: Path, *, root: Path, max_tokens: int, label: str = "judging"
) -> list[dict[str, Any]]:
    """Judge every pair greedily in both orders; images lie under root. Goes on from what out already holds."""

    def do(part: list[tuple[PairRecord, Order]]) -> Iterable[list[dict[str, Any]]]:
        requests = [request(pair, order, template, root) for pair, order in part]
        completions = generator.generate(requests, Sampling(max_tokens=max_tokens))
        for (pair, order), (completion,) in zip(part, completions, strict=True):
            yield [judgement(pair, order, completion, generator.name, template)]

    journal = Journal(out, lambda line: (line["pair_id"], line["order"], line["repeat"]))
    todo = [((pair.pair_id, order, 0), (pair, order)) for pair in pairs for order in ORDERS]
    return work_off(journal, todo, do, BATCH, label)


def request(pair: PairRecord, order: Order, template: Template, root: Path) -> Request:
    return Request(critic_text(pair, order, template), tuple(root / image.path for image in pair.images))


def judgement(pair: PairRecord, order: Order, completion: Completion, model: str, template: Template) -> dict[str, Any]:
    verdict = parse_verdict(completion.text)
    preferred = (pair if order == "12" else pair.swap()).preferred
    return {
        "pair_id": pair.pair_id,
        "order": order,
        "repeat": 0,
        "choice": verdict.choice,
        "status": verdict.status,
        "correct": verdict.choice == preferred,
        "preferred": preferred,
        "text": completion.text,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "model": model,
        "template_sha": template.sha,
    }
