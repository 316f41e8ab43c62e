# SPDX-License-Identifier: Apache-2.0
"""The pairwise critic, which judges which of two responses to a question is better."""

from dataclasses import dataclass, replace
from pathlib import Path

from critic_r1_verl.engines.base import Completion, Request, Sampling
from critic_r1_verl.lines import Judgement, status_of
from critic_r1_verl.prompts import Template, critic_text
from critic_r1_verl.records import Choice, Order, PairRecord
from critic_r1_verl.verdict import THINK_TAGS, as_written, parse_verdict


@dataclass(frozen=True, slots=True)
class PairwiseCritic:
    """How a pair is judged: prompt template, sampling, number of repeats, and how the model marks its reasoning.

    think_tags: the tags around it. thought_opened: the model's chat template writes the opening one, so that texts begin inside the block.
    Stored texts have <think> </think> in any case. Repeat k is sampled with the seed sampling.seed + k. ValueError for fewer than one
    repeat, and for several at temperature 0.
    """

    template: Template
    sampling: Sampling
    repeats: int = 1
    think_tags: tuple[str, str] = THINK_TAGS
    thought_opened: bool = False

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"{self.repeats} repeats: give 1 or more")
        if self.repeats > 1 and self.sampling.temperature == 0:
            raise ValueError(f"{self.repeats} repeats at temperature 0 are all the same: give a temperature above 0")

    def request(self, pair: PairRecord, order: Order, root: Path, repeat: int = 0) -> Request:
        """The request for one judgement. Image paths are relative to root."""
        sampling = replace(self.sampling, seed=self.sampling.seed + repeat)
        images = tuple(root / image.path for image in pair.images)
        return Request(critic_text(pair, order, self.template), images, sampling, f"pair {pair.pair_id} in order {order}")

    def read(self, completion: Completion) -> tuple[str, Choice | None, str]:
        """The text with its reasoning in <think> </think>, the choice in the shown frame, and the status of a line (lines.py)."""
        text = as_written(completion.text, self.think_tags, self.thought_opened)
        verdict = parse_verdict(text)
        status = status_of(verdict.status, completion.end)
        return text, verdict.choice if status == "parsed" else None, status

    def judgement(self, pair: PairRecord, order: Order, repeat: int, completion: Completion, model: str) -> Judgement:
        """The judgement that a completion contains. A text without a verdict counts as wrong; no verdict is guessed."""
        text, choice, status = self.read(completion)
        preferred = pair.shown(order).preferred
        return Judgement(
            pair_id=pair.pair_id,
            order=order,
            repeat=repeat,
            choice=choice,
            status=status,
            correct=choice == preferred,
            preferred=preferred,
            text=text,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            model=completion.model or model,
            template_sha=self.template.sha,
        )
