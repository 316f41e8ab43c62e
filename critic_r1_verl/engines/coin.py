# SPDX-License-Identifier: Apache-2.0
"""An Engine that tosses a coin for each verdict: a control for what a critic is worth."""

import hashlib
from collections.abc import Collection, Iterable, Iterator

from critic_r1_verl.engines.base import Completion, Done, Request


class CoinEngine:
    """Boxes "1" or "2" by a hash of the seed and the prompt, so the same prompt always gets the same verdict."""

    name = "coin"
    left_out: Collection[str] = ()

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        """See Engine."""
        for place, request in enumerate(requests):
            tail = hashlib.sha256(f"{self.seed}:{request.prompt}".encode()).digest()[0] % 2
            yield place, [Completion(f"<think>a coin</think>\\boxed{{{1 + tail}}}")]
