# SPDX-License-Identifier: Apache-2.0
"""Pairs x repeats x both orders -> judgements, one line each, as they arrive.

A judgement: {pair_id, order, repeat, choice, status, correct, preferred, text, prompt_tokens, completion_tokens, model, template_sha}.
choice and preferred are in the shown frame of `order`; what cannot be parsed is wrong, never guessed.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from critic_r1_verl.engines.base import Completion, Engine, Request, Sampling
from critic_r1_verl.journal import Journal, Key, work_off
from critic_r1_verl.prompts import Template, critic_text
from critic_r1_verl.records import ORDERS, Order, PairRecord, RecordFile
from critic_r1_verl.verdict import parse_verdict

THINK_TAGS = ("<think>", "</think>")

_Work = tuple[PairRecord, Order, int]
"""What one judgement takes: a pair, the order in which it is shown, and the repeat."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a pair is judged: the prompt, the sampling, how often, and by which tags the model marks its thought.

    Repeat k is drawn with the seed sampling.seed + k. The marks of another model's thought are written as <think> </think> in its texts.
    """

    template: Template
    sampling: Sampling
    repeats: int = 1
    think_tags: tuple[str, str] = THINK_TAGS

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"{self.repeats} repeats: at least 1")
        if self.repeats > 1 and self.sampling.temperature == 0:
            raise ValueError(f"{self.repeats} repeats at temperature 0 are {self.repeats} times the same: give a temperature above 0")


def judge(
    pairs: Collection[PairRecord] | RecordFile[PairRecord],
    generator: Engine,
    protocol: Protocol,
    out: Path,
    *,
    root: Path,
    label: str = "judging",
) -> Journal:
    """Judge every pair in both orders; images lie under root. A pair that stands there again is judged once.

    Goes on from what `out` already holds, and returns its lines, which stay in the file. The orders and repeats of a pair follow each
    other, so that an engine finds their common beginning, pictures first, in its cache.
    """

    def todo() -> Iterator[tuple[Key, _Work]]:
        seen = set()
        for pair in pairs:
            if (pair_id := pair.pair_id) not in seen:
                seen.add(pair_id)
                for repeat in range(protocol.repeats):
                    for order in ORDERS:
                        yield (pair_id, order, repeat), (pair, order, repeat)

    def ask(work: _Work) -> Request:
        pair, order, repeat = work
        return request(pair, order, protocol, root, repeat)

    def tell(work: _Work, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        return [judgement(*work, completion, generator.name, protocol) for completion in completions]

    journal = Journal(out, lambda line: (line["pair_id"], line["order"], line["repeat"]))
    return work_off(journal, todo, generator, ask, tell, label, _Running(), ("pairs", len(ORDERS) * protocol.repeats))


def request(pair: PairRecord, order: Order, protocol: Protocol, root: Path, repeat: int = 0) -> Request:
    sampling = replace(protocol.sampling, seed=protocol.sampling.seed + repeat)
    images = tuple(root / image.path for image in pair.images)
    return Request(critic_text(pair, order, protocol.template), images, sampling, f"pair {pair.pair_id} in order {order}")


def judgement(pair: PairRecord, order: Order, repeat: int, completion: Completion, model: str, protocol: Protocol) -> dict[str, Any]:
    text = completion.text
    for tag, mark in zip(THINK_TAGS, protocol.think_tags, strict=True):
        text = text.replace(mark, tag)
    verdict = parse_verdict(text)
    preferred = (pair if order == "12" else pair.swap()).preferred
    return {
        "pair_id": pair.pair_id,
        "order": order,
        "repeat": repeat,
        "choice": verdict.choice,
        "status": verdict.status,
        "correct": verdict.choice == preferred,
        "preferred": preferred,
        "text": text,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "model": model,
        "template_sha": protocol.template.sha,
    }


class _Running:
    """The score so far, beside the progress bar."""

    def __init__(self) -> None:
        self.right = self.unparsed = self.judged = 0

    def __call__(self, line: dict[str, Any]) -> str:
        self.judged += 1
        self.right += line["correct"]
        self.unparsed += line["choice"] is None
        unparsed = f", {self.unparsed} unparsed" if self.unparsed else ""
        return f"right {100 * self.right / self.judged:.1f} %{unparsed}"
