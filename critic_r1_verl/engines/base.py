# SPDX-License-Identifier: Apache-2.0
"""The interface between this package and a model that writes text: requests go in, completions come out as they finish.

vllm.py runs vLLM in this process, pool.py runs several such engines in processes of their own, openai_client.py sends the requests to a
server. Tests use an object of their own with the same `generate`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Sampling:
    """How texts are sampled, and how many for each request. temperature 0 is greedy; top_p in (0, 1].

    The same seed gives the same texts again on the same machine.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    samples: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt with one literal <image> for each image, how its texts are sampled, and the name that error messages give it."""

    prompt: str
    images: tuple[Path, ...]
    sampling: Sampling
    name: str = "a prompt"

    def parts(self) -> list[str | Path]:
        """The prompt cut at each <image>, with the image's path in its place. ValueError if their numbers differ."""
        texts = self.prompt.split("<image>")
        if len(texts) != len(self.images) + 1:
            raise ValueError(f"{self.name}: {len(texts) - 1} <image> in the prompt, {len(self.images)} images")
        parts: list[str | Path] = [texts[0]]
        for image, text in zip(self.images, texts[1:], strict=True):
            parts += [image, text]
        return [part for part in parts if part != ""]


@dataclass(frozen=True, slots=True)
class Completion:
    """A text and its numbers of tokens; None where a server does not return them."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None


Done = tuple[int, list[Completion]]
"""A finished request: its place in the list of requests, from 0, and its texts, as many as its sampling asks for."""


class Engine(Protocol):
    name: str
    """The model, as run folders and error messages name it."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        """Yields each request with its texts as soon as they are complete, in any order.

        Requests are taken from the iterable only as the engine has room for them. Put requests about the same images next to each other:
        an engine may decode them once. ValueError for a request that cannot be processed, OSError for a broken machine or connection;
        the results that were yielded before remain valid.
        """
        ...


def in_order(engine: Engine, requests: Sequence[Request]) -> list[list[Completion]]:
    """The texts of all requests, in their order."""
    done = dict(engine.generate(requests))
    return [done[number] for number in range(len(requests))]
