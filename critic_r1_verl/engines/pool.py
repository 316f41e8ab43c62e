# SPDX-License-Identifier: Apache-2.0
"""Several vLLM engines on one machine as one Engine: each runs in a process of its own, on its own share of the GPUs."""

import atexit
import multiprocessing
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from critic_r1_verl.engines.base import Done, Request
from critic_r1_verl.engines.vllm import MAX_TAKEN


class EnginePool:
    """`count` engines of tensor_parallel_size GPUs each.

    Consecutive requests with the same images go to the same engine, because its prefix cache then holds them.
    """

    def __init__(self, count: int, model: str | Path, *, max_model_len: int | None = None, tensor_parallel_size: int = 1) -> None:
        from critic_r1_verl import supervise
        from critic_r1_verl.devices import visible_devices

        supervise.attach()
        self.name = str(model)
        devices = visible_devices(count * tensor_parallel_size)
        self._pipes: list[Connection] = []
        spawn = multiprocessing.get_context("spawn")
        for number in range(count):
            ours, theirs = spawn.Pipe()
            share = ",".join(devices[number * tensor_parallel_size : (number + 1) * tensor_parallel_size])
            spawn.Process(target=_work, args=(theirs, share, str(model), max_model_len, tensor_parallel_size)).start()
            # Now only the child has its end of the pipe open, so the pipe ends when the child dies.
            theirs.close()
            self._pipes.append(ours)
        # Runs before multiprocessing's own exit handler, which waits for the processes: each ends when its pipe is closed.
        atexit.register(self.close)
        # Each engine sends one message when its model is loaded.
        for pipe in self._pipes:
            self._receive(pipe)

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        numbered = enumerate(requests)
        num_taken = dict.fromkeys(self._pipes, 0)
        pipe, images = self._pipes[0], None
        try:
            waiting = next(numbered, None)
            while waiting or any(num_taken.values()):
                while waiting:
                    if waiting[1].images != images or num_taken[pipe] >= MAX_TAKEN:
                        # Other images, or this engine is full: go on with the engine that has the least to do.
                        pipe, images = min(self._pipes, key=num_taken.__getitem__), waiting[1].images
                    if num_taken[pipe] >= MAX_TAKEN:
                        break
                    # Sending fails if the engine's process has ended. Its last results and its error are still in the pipe and are
                    # received below, so the failure to send is not an error here.
                    with suppress(ConnectionError):
                        pipe.send(waiting)
                    num_taken[pipe] += 1
                    waiting = next(numbered, None)
                for ready in wait([each for each, number in num_taken.items() if number]):
                    assert isinstance(ready, Connection)
                    num_taken[ready] -= 1
                    yield self._receive(ready)
        finally:
            # After an error, or when the caller stops early, the engines still send results, which the next call would take for its own.
            if any(num_taken.values()):
                self.close()

    def close(self) -> None:
        """End the engines, whose processes stop when their pipes are closed; this object cannot be used afterwards."""
        for pipe in self._pipes:
            pipe.close()

    def _receive(self, pipe: Connection) -> Any:
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError(
                f"{self.name}: an engine's process ended; the lines above may say why. Run the same command again to go on"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def _work(pipe: Connection, devices: str, model: str, max_model_len: int | None, tensor_parallel_size: int) -> None:
    """The process of one engine: receives (place, request), sends (place, texts), and ends when the pipe is closed.

    Its first message is None and says that the model is loaded; an exception that it sends is raised in the parent.
    """
    from critic_r1_verl.engines.vllm import VllmEngine

    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    inbox: queue.SimpleQueue[tuple[int, Request] | None] = queue.SimpleQueue()
    # A thread receives all the time. Otherwise both sides could block for ever, each sending into a pipe that is full.
    threading.Thread(target=_receive_all, args=(pipe, inbox), daemon=True).start()
    try:
        engine = VllmEngine(model, max_model_len=max_model_len, tensor_parallel_size=tensor_parallel_size)
        pipe.send(None)
        while True:
            while not engine.num_taken or not inbox.empty():
                if (taken := inbox.get()) is None:
                    return
                engine.take(*taken)
            for done in engine.step():
                pipe.send(done)
    except (BrokenPipeError, KeyboardInterrupt):
        return
    except (ValueError, OSError) as error:
        pipe.send(type(error)(str(error)))


def _receive_all(pipe: Connection, inbox: "queue.SimpleQueue[tuple[int, Request] | None]") -> None:
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        inbox.put(None)
