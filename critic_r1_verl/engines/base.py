# SPDX-License-Identifier: Apache-2.0
"""The interface of an engine, which takes requests and returns completions as they finish.

vllm.py runs vLLM in this process, pool.py runs several such engines in separate processes, openai_client.py sends requests to a server.
Tests use a fake object with the same `generate`.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from critic_r1_verl.lines import End


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters; samples is the number of texts for each request. temperature 0 is greedy; top_p is in (0, 1].

    The same seed gives the same texts on the same machine.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    samples: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt with one <image> placeholder for each image path. Error messages use name."""

    prompt: str
    images: tuple[Path, ...]
    sampling: Sampling
    name: str = "a prompt"

    def parts(self) -> list[str | Path]:
        """The prompt split at each <image>, with the image's path in its place. ValueError if their numbers differ."""
        texts = self.prompt.split("<image>")
        if len(texts) != len(self.images) + 1:
            raise ValueError(f"{self.name}: {len(texts) - 1} <image> placeholders in the prompt, {len(self.images)} images")
        parts: list[str | Path] = [texts[0]]
        for image, text in zip(self.images, texts[1:], strict=True):
            parts += [image, text]
        return [part for part in parts if part != ""]


@dataclass(frozen=True, slots=True)
class Completion:
    """A generated text, its token counts, how it ended, and the model that wrote it; counts are None and the model "" if not stated.

    A server states the sum of the tokens of several completions alone, of which each then has an equal share.
    image_tokens and cached_tokens are the parts of prompt_tokens that stand for images, and that the engine had computed before.
    end: cut_short at max_tokens; refused by the server or the model, and the text is then what it said instead; tool_call and empty for a
    completion without text.
    """

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    end: End = "complete"
    model: str = ""
    image_tokens: int | None = None
    cached_tokens: int | None = None


Done = tuple[int, list[Completion]]
"""A finished request: its index in the list of requests, and its sampling.samples completions."""


class Engine(Protocol):
    name: str
    """The model's name in run folders and error messages."""

    @property
    def left_out(self) -> Collection[str]:
        """The settings of sampling (temperature, top_p, seed) that were not sent, because the server refuses them."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        """Yield each finished request, in any order.

        The engine takes requests from the iterable only when it has room for them, and asks for more after each result, although the
        iterable may have come to its end: results can make more requests possible. Put requests with the same images next to each other,
        because an engine may then decode the images once. ValueError for a request that cannot be processed, OSError for a failed machine
        or connection; results that were yielded before remain valid.
        """
        ...


def in_order(engine: Engine, requests: Sequence[Request]) -> list[list[Completion]]:
    """The completions of all requests, in the order of the requests. ValueError if one was refused."""
    done = dict(engine.generate(requests))
    for number, request in enumerate(requests):
        if refused := [completion for completion in done[number] if completion.end == "refused"]:
            raise ValueError(f"{engine.name}, {request.name}: refused: {refused[0].text}")
    return [done[number] for number in range(len(requests))]
