# SPDX-License-Identifier: Apache-2.0
"""The one seam between this package and a model that writes text: requests in, completions out as they finish.

vllm.py runs vLLM in this process, pool.py runs several of these side by side, openai_client.py sends requests to a server. Tests replace
an engine by their own object with the same `generate`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a text is drawn. temperature 0 is greedy; top_p in (0, 1]; the same seed gives the same texts again on the same machine."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    samples: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt with one literal <image> for each picture, how its texts are drawn, and what errors call it."""

    prompt: str
    images: tuple[Path, ...]
    sampling: Sampling
    name: str = "a prompt"

    def parts(self) -> list[str | Path]:
        """The prompt's texts with the pictures in their places."""
        texts = self.prompt.split("<image>")
        if len(texts) != len(self.images) + 1:
            raise ValueError(f"{self.name}: {len(texts) - 1} <image> in the prompt, {len(self.images)} images")
        woven: list[str | Path] = [texts[0]]
        for image, text in zip(self.images, texts[1:], strict=True):
            woven += [image, text]
        return [part for part in woven if part != ""]


@dataclass(frozen=True, slots=True)
class Completion:
    """A text and what it took; an endpoint may not tell the tokens."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None


Done = tuple[int, list[Completion]]
"""The place of a request among those given, from 0, and its texts, as many as its sampling asks for."""


class Engine(Protocol):
    name: str

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        """Each request's texts as soon as they are there, in any order; requests are taken as there is room, neighbours together.

        ValueError for a request that cannot be worked on, OSError for a broken machine or connection: what was yielded before stands.
        """
        ...


def in_order(generator: Engine, requests: Sequence[Request]) -> list[list[Completion]]:
    """The texts of all requests, in their order."""
    done = dict(generator.generate(requests))
    return [done[number] for number in range(len(requests))]
