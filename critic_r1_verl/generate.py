# SPDX-License-Identifier: Apache-2.0
"""The one seam between this package and a model that writes text: requests in, texts out.

VllmGenerator runs vLLM in this process; tests put their own object with the same `generate` in its place.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt with one literal <image> for each picture, and how many texts are wanted for it."""

    prompt: str
    images: tuple[Path, ...]
    samples: int = 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """temperature 0 is greedy; top_p in (0, 1]; seed makes sampled texts repeatable on the same machine.

    On the CPU vLLM's engine seed stands in for it: a whole run repeats, one that was cut short and resumed samples other texts.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    text: str
    prompt_tokens: int
    completion_tokens: int


class Generator(Protocol):
    name: str

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        """For each request, in order, as many completions as it asks for."""
        ...


class VllmGenerator:
    """vLLM in this process, on whatever device it finds; on the CPU in float32, since the small model loses digits in half precision."""

    def __init__(self, model: str | Path, max_model_len: int | None = None) -> None:
        import os

        from critic_r1_verl import cpu

        # One process: nothing is left behind when this one is killed.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        options: dict[str, Any] = {}
        self._on_cpu = cpu.requested()
        if self._on_cpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            # vLLM's sampler would be compiled, for half a minute; the model runs eagerly anyway.
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
            options = {"dtype": "float32", "enforce_eager": True, "max_num_batched_tokens": 4096}
        from transformers import AutoProcessor
        from vllm import LLM

        self.name = str(model)
        self._processor = AutoProcessor.from_pretrained(model)
        self._llm = LLM(model=str(model), max_model_len=max_model_len, seed=0, disable_log_stats=True, **options)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        from vllm import SamplingParams

        # vLLM 0.24.0 fails on a seeded request whose prefill is chunked on a CPU; there the engine's own seed makes a run repeatable.
        seed = None if self._on_cpu else sampling.seed
        prompts = [self._prompt(request) for request in requests]
        parameters = [
            SamplingParams(
                n=request.samples,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=seed,
            )
            for request in requests
        ]
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        return [
            [
                Completion(choice.text, len(output.prompt_token_ids), len(choice.token_ids))
                for choice in sorted(output.outputs, key=lambda choice: choice.index)
            ]
            for output in outputs
        ]

    def _prompt(self, request: Request) -> dict[str, Any]:
        from PIL import Image

        parts = [part for part in re.split("(<image>)", request.prompt) if part]
        if parts.count("<image>") != len(request.images):
            raise ValueError(f"{parts.count('<image>')} <image> in the prompt, {len(request.images)} images: {request.prompt[:80]!r}")
        content = [{"type": "image"} if part == "<image>" else {"type": "text", "text": part} for part in parts]
        text = self._processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        images = []
        for path in request.images:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        return {"prompt": text, "multi_modal_data": {"image": images}}
