# SPDX-License-Identifier: Apache-2.0
"""vLLM in this process as an Engine."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from critic_r1_verl.engines.base import Completion, Done, Request
from critic_r1_verl.images import open_rgb

MAX_RUNNING = 256
"""The most requests that vLLM decodes at the same time; its own default depends on the GPU."""
MAX_TAKEN = MAX_RUNNING + 32
"""The most requests that are given to vLLM before they are done. A few more than it decodes at the same time, so that a finished one is
replaced at once; not all of them, because each holds its decoded images in memory."""


class VllmEngine:
    """vLLM in this process, on the devices that it finds; the arguments are vLLM's own.

    `generate` serves a whole list of requests. Who has requests coming in (pool.py) calls `take` and `step` instead.
    """

    def __init__(self, model: str | Path, *, max_model_len: int | None = None, tensor_parallel_size: int = 1) -> None:
        import os

        from critic_r1_verl import cpu, supervise

        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        # stdout is for the output that other programs read.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        options: dict[str, Any] = {}
        if cpu.requested():
            # vLLM runs inside this process, so nothing is left behind when it is killed.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            # Without this, compiling vLLM's sampler takes half a minute; the model is not compiled anyway.
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
            # float32 because the small model gets digits wrong in half precision. Steps of more than 1024 tokens are no faster here, and
            # their larger buffers fragment glibc's heap: about 0.1 MiB for each pair is never returned.
            options = {"dtype": "float32", "enforce_eager": True, "max_num_batched_tokens": 1024}
            # Preparing the small model's images takes no longer than finding them in vLLM's cache, and that cache would keep growing.
            options["mm_processor_cache_gb"] = 0
        else:
            # On a GPU, vLLM's engine is a process of its own, so that images are prepared while the GPU works; it must end with this one.
            supervise.attach()
        from transformers import AutoProcessor
        from vllm import LLM

        self.name = str(model)
        self._processor = AutoProcessor.from_pretrained(model)
        options |= {"max_model_len": max_model_len, "tensor_parallel_size": tensor_parallel_size, "max_num_seqs": MAX_RUNNING}
        try:
            self._llm = LLM(model=str(model), seed=0, disable_log_stats=True, **options)
        except RuntimeError as error:
            # Usually too little memory, or that the engine's own process died.
            raise ValueError(f"{model}: vLLM does not start: {error}; set VLLM_LOGGING_LEVEL=INFO to see why") from error
        # From vLLM's id of a request in flight to the request's place in the list.
        self._places: dict[str, int] = {}
        # The images of the last request, because the next one is often about the same.
        self._opened: tuple[tuple[Path, ...], list[Any]] = (), []

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        numbered = enumerate(requests)
        try:
            while True:
                while self.num_taken < MAX_TAKEN and (numbered_request := next(numbered, None)):
                    self.take(*numbered_request)
                if not self.num_taken:
                    return
                yield from self.step()
        finally:
            # After an error, or when the caller stops early, requests are still in flight: the next call must not get their results.
            if self._places:
                self._llm.llm_engine.abort_request(list(self._places))
                self._places.clear()

    @property
    def num_taken(self) -> int:
        """The number of requests that were taken and are not done."""
        return len(self._places)

    def take(self, place: int, request: Request) -> None:
        """Give a request to vLLM; `step` will return `place` with its texts. ValueError if vLLM refuses it."""
        from vllm import SamplingParams

        sampling = request.sampling
        parameters = SamplingParams(
            n=sampling.samples, temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens, seed=sampling.seed
        )
        try:
            (identity,) = self._llm.enqueue([self._prompt(request)], parameters, use_tqdm=False)
        except ValueError as error:
            # For example, the prompt is longer than the model's context.
            raise ValueError(f"{self.name}, {request.name}: {error}") from error
        # vLLM 0.24.0 returns "<number>-<random>", while its outputs carry only the number.
        self._places[identity.partition("-")[0]] = place

    def step(self) -> list[Done]:
        """Run one step of vLLM, which gives every running request its next token; returns the requests that this finished."""
        return [
            (
                self._places.pop(output.request_id),
                [
                    Completion(choice.text, len(output.prompt_token_ids or ()), len(choice.token_ids))
                    for choice in sorted(output.outputs, key=lambda choice: choice.index)
                ],
            )
            for output in self._llm.llm_engine.step()
            if output.finished
        ]

    def _prompt(self, request: Request) -> dict[str, Any]:
        parts = request.parts()
        content = [{"type": "image"} if isinstance(part, Path) else {"type": "text", "text": part} for part in parts]
        text = self._processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        if request.images != self._opened[0]:
            self._opened = request.images, [open_rgb(path) for path in request.images]
        images = self._opened[1]
        return {"prompt": text, "multi_modal_data": {"image": images}} if images else {"prompt": text}
