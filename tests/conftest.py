# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a model, faked at the one seam critic_r1_verl.generate, and a faster loader of YAML."""

from collections.abc import Callable, Iterable, Iterator

import pytest
import yaml

from critic_r1_verl.engines.base import Completion, Done, Request

# Hydra reads a hundred files of verl for each composition, with the slow one of the two loaders; they give the same.
yaml.SafeLoader = yaml.CSafeLoader


class Scripted:
    """A model that writes what `reply(prompt, sample)` says, done in the order of `arrival(places)`, and remembers what it was asked."""

    name = "scripted"

    def __init__(self, reply: Callable[[str, int], str], die_after: int | None = None, arrival: Callable = list) -> None:
        self.reply, self.die_after, self.arrival = reply, die_after, arrival
        self.asked: list[Request] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        taken = list(requests)
        for number, place in enumerate(self.arrival(range(len(taken)))):
            if number == self.die_after:
                raise KeyboardInterrupt
            request = taken[place]
            self.asked.append(request)
            yield place, [Completion(self.reply(request.prompt, sample), 9, 5) for sample in range(request.sampling.samples)]


@pytest.fixture(scope="session")
def scripted() -> type[Scripted]:
    return Scripted
