# SPDX-License-Identifier: Apache-2.0
"""Several vLLM engines on one machine that together form one Engine. Each runs in a separate process and uses different GPUs."""

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
from critic_r1_verl.engines.vllm import MAX_IN_FLIGHT


class EnginePool:
    """`count` engines of tensor_parallel_size GPUs each.

    Consecutive requests with the same images go to the same engine, because its prefix cache then holds them.
    """

    left_out = ()

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
            spawn.Process(target=_run_engine, args=(theirs, share, str(model), max_model_len, tensor_parallel_size)).start()
            # Now only the child holds its end of the pipe, so the parent sees the end of the pipe when the child dies.
            theirs.close()
            self._pipes.append(ours)
        # The exit handler of multiprocessing waits for the processes. This one runs before it and closes the pipes, which ends them.
        atexit.register(self.close)
        # The first message of each engine says that its model is loaded.
        for pipe in self._pipes:
            self._receive(pipe)

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        numbered = enumerate(requests)
        num_in_flight = dict.fromkeys(self._pipes, 0)
        pipe, images = self._pipes[0], None
        try:
            waiting = None
            while True:
                while waiting := waiting or next(numbered, None):
                    if waiting[1].images != images or num_in_flight[pipe] >= MAX_IN_FLIGHT:
                        # The images changed, or this engine is full: use the engine with the fewest requests in flight.
                        pipe, images = min(self._pipes, key=num_in_flight.__getitem__), waiting[1].images
                    if num_in_flight[pipe] >= MAX_IN_FLIGHT:
                        break
                    # Sending fails if the engine's process has ended. Ignore this here: its last results, or its error, are received below.
                    with suppress(ConnectionError):
                        pipe.send(waiting)
                    num_in_flight[pipe] += 1
                    waiting = None
                if not any(num_in_flight.values()):
                    return
                for ready in wait([each for each, number in num_in_flight.items() if number]):
                    assert isinstance(ready, Connection)
                    num_in_flight[ready] -= 1
                    yield self._receive(ready)
        finally:
            # After an error, or if the caller stops early, the engines would still send results, and the next call would receive them.
            if any(num_in_flight.values()):
                self.close()

    def close(self) -> None:
        """Close the pipes, which ends the processes of the engines. The pool cannot be used afterwards."""
        for pipe in self._pipes:
            pipe.close()

    def _receive(self, pipe: Connection) -> Any:
        try:
            message = pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError(
                f"{self.name}: an engine's process ended; the log above may say why. Run the same command again to resume"
            ) from error
        if isinstance(message, Exception):
            raise message
        return message


def _run_engine(pipe: Connection, devices: str, model: str, max_model_len: int | None, tensor_parallel_size: int) -> None:
    """The main function of an engine's process: receives (index, request), sends (index, completions), ends when the pipe is closed.

    The first message that it sends is None and says that the model is loaded. The parent raises an exception that it sends.
    """
    from critic_r1_verl.engines.vllm import VllmEngine

    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    inbox: queue.SimpleQueue[tuple[int, Request] | None] = queue.SimpleQueue()
    # A separate thread receives. Without it both sides could block forever, each while sending into a full pipe.
    threading.Thread(target=_receive_all, args=(pipe, inbox), daemon=True).start()
    try:
        engine = VllmEngine(model, max_model_len=max_model_len, tensor_parallel_size=tensor_parallel_size)
        pipe.send(None)
        while True:
            while not engine.num_in_flight or not inbox.empty():
                if (received := inbox.get()) is None:
                    return
                engine.submit(*received)
            for done in engine.step():
                pipe.send(done)
    except (BrokenPipeError, KeyboardInterrupt):
        return
    except (ValueError, OSError) as error:
        # Not type(error), because a subclass such as pydantic's ValidationError cannot be made from a message.
        pipe.send((ValueError if isinstance(error, ValueError) else OSError)(str(error)))


def _receive_all(pipe: Connection, inbox: "queue.SimpleQueue[tuple[int, Request] | None]") -> None:
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        inbox.put(None)
