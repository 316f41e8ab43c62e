# SPDX-License-Identifier: Apache-2.0
"""vLLM in this process as an Engine."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from critic_r1_verl.engines.base import Completion, Done, Request

MAX_RUNNING = 256
"""Requests that an engine works on at once; vLLM's own default depends on the GPU."""
MAX_TAKEN = MAX_RUNNING + 32
"""Requests that an engine holds, their pictures decoded: enough that a finished one is replaced at once, whatever number is to come."""


class VllmEngine:
    """vLLM in this process, on whatever device it finds; on the CPU in float32, since the small model loses digits in half precision."""

    def __init__(self, model: str | Path, max_model_len: int | None = None, tensor_parallel: int = 1) -> None:
        import os

        from critic_r1_verl import cpu, supervise

        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        # Output for programs is on stdout.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        options: dict[str, Any] = {}
        if cpu.requested():
            # One process: nothing is left behind when this one is killed.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            # vLLM's sampler would be compiled, for half a minute; the model runs eagerly anyway.
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
            # Steps of more tokens are no faster here, and their larger buffers tear up glibc's heap: 0.1 MiB a pair that never comes back.
            options = {"dtype": "float32", "enforce_eager": True, "max_num_batched_tokens": 1024}
            # The small model's pictures are prepared as fast as they are found again, and a cache of them would grow with the work.
            options["mm_processor_cache_gb"] = 0
        else:
            # The engine has a process of its own there, so that pictures are prepared while the GPU works; it must not outlive this one.
            supervise.attach()
        from transformers import AutoProcessor
        from vllm import LLM

        self.name = str(model)
        self._processor = AutoProcessor.from_pretrained(model)
        options |= {"max_model_len": max_model_len, "tensor_parallel_size": tensor_parallel, "max_num_seqs": MAX_RUNNING}
        try:
            self._llm = LLM(model=str(model), seed=0, disable_log_stats=True, **options)
        except RuntimeError as error:
            # Memory that does not suffice, and whatever else an engine's own process died of.
            raise ValueError(f"{model}: vLLM does not start: {error}; VLLM_LOGGING_LEVEL=INFO before the command says more") from error
        self._places: dict[str, int] = {}
        # Neighbours are about the same pictures.
        self._opened: tuple[tuple[Path, ...], list[Any]] = (), []

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        coming = enumerate(requests)
        try:
            while True:
                while self.num_taken < MAX_TAKEN and (following := next(coming, None)):
                    self.take(*following)
                if not self.num_taken:
                    return
                yield from self.step()
        finally:
            # After an error, or if the caller stops early, the next call must find the engine empty.
            if self._places:
                self._llm.llm_engine.abort_request(list(self._places))
                self._places.clear()

    @property
    def num_taken(self) -> int:
        """Requests that are taken and not done."""
        return len(self._places)

    def take(self, place: int, request: Request) -> None:
        """Give a request to the engine."""
        from vllm import SamplingParams

        wanted = request.sampling
        parameters = SamplingParams(
            n=wanted.samples, temperature=wanted.temperature, top_p=wanted.top_p, max_tokens=wanted.max_tokens, seed=wanted.seed
        )
        try:
            (identity,) = self._llm.enqueue([self._prompt(request)], parameters, use_tqdm=False)
        except ValueError as error:
            # Such as a prompt longer than the model's context.
            raise ValueError(f"{self.name}, {request.name}: {error}") from error
        # vLLM 0.24.0 returns its own name of the request, the number by which outputs call it and a random tail.
        self._places[identity.partition("-")[0]] = place

    def step(self) -> list[Done]:
        """Let the engine work a little; what is done with it."""
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
            self._opened = request.images, [_picture(path) for path in request.images]
        images = self._opened[1]
        return {"prompt": text, "multi_modal_data": {"image": images}} if images else {"prompt": text}


def _picture(path: Path) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    # Pillow's decoders raise OSError, SyntaxError, struct.error and more on hostile bytes: to the run they all mean the same.
    except Exception as error:
        raise ValueError(
            f"{path}: the image does not open ({type(error).__name__}: {error}); put it back, then run the same command"
        ) from error
