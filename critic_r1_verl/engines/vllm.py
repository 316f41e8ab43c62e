# SPDX-License-Identifier: Apache-2.0
"""The Engine that runs vLLM in this process."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from critic_r1_verl.engines.base import Completion, Done, Request
from critic_r1_verl.images import open_rgb

MAX_RUNNING = 256
"""How many requests vLLM decodes at the same time. It is set here because vLLM's default depends on the GPU."""
MAX_IN_FLIGHT = MAX_RUNNING + 32
"""How many requests vLLM holds at the same time. A few more than it decodes, so that a finished one is replaced at once; not all requests,
because each holds its decoded images in memory."""


class VllmEngine:
    """vLLM in this process, on the devices that it finds. The arguments have the same meaning as in vLLM.

    `generate` runs a list of requests. A caller whose requests arrive over time (pool.py) uses `submit` and `step` instead. ValueError if
    vLLM does not start.
    """

    left_out = ()

    def __init__(self, model: str | Path, *, max_model_len: int | None = None, tensor_parallel_size: int = 1) -> None:
        import os

        from critic_r1_verl import cpu, hub, supervise
        from critic_r1_verl.cpu import loopback

        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        # stdout is reserved for output that other programs read.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        options: dict[str, Any] = {}
        if cpu.requested():
            # vLLM then starts no second process, which could survive when this one is killed.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            cpu.set_vllm_environment()
            loopback.install()
            # float32 because the small model makes errors in half precision. Steps of more than 1024 tokens are no faster on a CPU, and
            # their larger buffers fragment the heap of glibc, so that about 0.1 MiB for each pair is never freed.
            options = {"dtype": "float32", "enforce_eager": True, "max_num_batched_tokens": 1024}
            # Processing the images of the small model takes no longer than a lookup in vLLM's cache, which would only grow.
            options["mm_processor_cache_gb"] = 0
        else:
            # On a GPU, vLLM's engine is a separate process, so that images are processed while the GPU works. It must end with this one.
            supervise.attach()
        from transformers import AutoProcessor
        from vllm import LLM

        self.name = str(model)
        folder = str(hub.fetch(self.name, "model"))
        self._processor = AutoProcessor.from_pretrained(folder)
        # Not every processor says which token stands for a part of an image.
        self._image_token: int | None = getattr(self._processor, "image_token_id", None)
        options |= {"max_model_len": max_model_len, "tensor_parallel_size": tensor_parallel_size, "max_num_seqs": MAX_RUNNING}
        try:
            self._llm = LLM(model=folder, seed=0, disable_log_stats=True, **options)
        except RuntimeError as error:
            # The usual causes are too little memory and the death of vLLM's engine process.
            raise ValueError(f"{model}: vLLM does not start: {error}; set VLLM_LOGGING_LEVEL=INFO to see why") from error
        # For each request in flight, vLLM's id and the caller's index.
        self._indices: dict[str, int] = {}
        # Paths and decoded images of the last request, because the next request often has the same images.
        self._last_images: tuple[tuple[Path, ...], list[Any]] = (), []

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        numbered = enumerate(requests)
        try:
            while True:
                while self.num_in_flight < MAX_IN_FLIGHT and (numbered_request := next(numbered, None)):
                    self.submit(*numbered_request)
                if not self.num_in_flight:
                    return
                yield from self.step()
        finally:
            # After an error, or if the caller stops early, requests are still in flight. The next call must not get their results.
            if self._indices:
                self._llm.llm_engine.abort_request(list(self._indices))
                self._indices.clear()

    @property
    def num_in_flight(self) -> int:
        """The number of submitted requests that are not finished."""
        return len(self._indices)

    def submit(self, index: int, request: Request) -> None:
        """Give a request to vLLM; `step` will return `index` with its completions. ValueError if vLLM rejects the request."""
        from vllm import SamplingParams

        sampling = request.sampling
        parameters = SamplingParams(
            n=sampling.samples, temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens, seed=sampling.seed
        )
        try:
            (request_id,) = self._llm.enqueue([self._prompt(request)], parameters, use_tqdm=False)
        except ValueError as error:
            # For example, the prompt is longer than the model's context.
            raise ValueError(f"{self.name}, {request.name}: {error}") from error
        # vLLM 0.24.0 returns "<number>-<random>", while its outputs carry only the number.
        self._indices[request_id.partition("-")[0]] = index

    def step(self) -> list[Done]:
        """Run one step of vLLM, which generates the next token of every running request, and return the requests that finished."""
        return [
            (
                self._indices.pop(output.request_id),
                [
                    Completion(
                        choice.text,
                        len(output.prompt_token_ids or ()),
                        len(choice.token_ids),
                        "cut_short" if choice.finish_reason == "length" else "complete",
                        image_tokens=None if self._image_token is None else (output.prompt_token_ids or []).count(self._image_token),
                        cached_tokens=output.num_cached_tokens,
                    )
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
        if request.images != self._last_images[0]:
            self._last_images = request.images, [open_rgb(path) for path in request.images]
        images = self._last_images[1]
        return {"prompt": text, "multi_modal_data": {"image": images}} if images else {"prompt": text}
