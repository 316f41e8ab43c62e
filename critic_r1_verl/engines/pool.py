# SPDX-License-Identifier: Apache-2.0
"""Several engines side by side as one Engine: a process each, with its own share of the machine's GPUs."""

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
    """`count` VllmGenerators of tensor_parallel GPUs each; neighbours with the same pictures go to the same one, for its prefix cache."""

    def __init__(self, count: int, model: str | Path, max_model_len: int | None = None, tensor_parallel: int = 1) -> None:
        from critic_r1_verl import supervise

        supervise.attach()
        self.name = str(model)
        devices = _devices(count * tensor_parallel)
        self._pipes: list[Connection] = []
        spawn = multiprocessing.get_context("spawn")
        for number in range(count):
            ours, theirs = spawn.Pipe()
            share = devices[number * tensor_parallel : (number + 1) * tensor_parallel]
            spawn.Process(target=_work, args=(theirs, ",".join(share), str(model), max_model_len, tensor_parallel)).start()
            # Only the child holds its end now, so that its death is the end of the pipe.
            theirs.close()
            self._pipes.append(ours)
        # Before multiprocessing's own, which waits for the processes: the end of its pipe ends each.
        atexit.register(self.close)
        for pipe in self._pipes:
            self._receive(pipe)

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        coming = enumerate(requests)
        taken = dict.fromkeys(self._pipes, 0)
        pipe, pictures = self._pipes[0], None
        try:
            following = next(coming, None)
            while following or any(taken.values()):
                while following:
                    if following[1].images != pictures or taken[pipe] >= MAX_TAKEN:
                        pipe, pictures = min(self._pipes, key=taken.__getitem__), following[1].images
                    if taken[pipe] >= MAX_TAKEN:
                        break
                    # An engine that has ended is still to say what it has done, and why it ended.
                    with suppress(ConnectionError):
                        pipe.send(following)
                    taken[pipe] += 1
                    following = next(coming, None)
                for ready in wait([each for each, number in taken.items() if number]):
                    assert isinstance(ready, Connection)
                    taken[ready] -= 1
                    yield self._receive(ready)
        finally:
            # After an error, or if the caller stops early, what the engines still send would be taken for the next call's.
            if any(taken.values()):
                self.close()

    def close(self) -> None:
        """End the engines."""
        for pipe in self._pipes:
            pipe.close()

    def _receive(self, pipe: Connection) -> Any:
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError(
                f"{self.name}: an engine's process ended; the lines above may say why. The same command goes on"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def _devices(count: int) -> list[str]:
    """The first GPUs that this process may use, by their numbers; none where it runs on the CPU."""
    from critic_r1_verl import cpu, devices

    if cpu.requested():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = visible.split(",") if visible else [str(number) for number in range(devices.gpu_count())]
    if len(found) < count:
        raise ValueError(f"{count} GPUs are asked for, {len(found)} are there: lower --data-parallel or --tensor-parallel")
    return found


def _work(pipe: Connection, devices: str, model: str, max_model_len: int | None, tensor_parallel: int) -> None:
    """One engine: takes (place, request), sends what generate() yields, ends when the pipe does. The first message says that it is up."""
    from critic_r1_verl.engines.vllm import VllmEngine

    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    inbox: queue.SimpleQueue[tuple[int, Request] | None] = queue.SimpleQueue()
    # Always ready to receive: with both sides sending into full pipes, both would wait for ever.
    threading.Thread(target=_receive_all, args=(pipe, inbox), daemon=True).start()
    try:
        engine = VllmEngine(model, max_model_len, tensor_parallel)
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
