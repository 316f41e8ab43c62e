# SPDX-License-Identifier: Apache-2.0
"""How requests are distributed among engines. The engines are threads here; tests/e2e/test_judging.py runs real ones."""

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from critic_r1_verl.engines import pool, vllm
from critic_r1_verl.engines.base import Completion, Request, Sampling
from critic_r1_verl.engines.pool import EnginePool

REQUESTS = [Request(f"{number}", (Path(f"{number // 2}.png"),), Sampling(8)) for number in range(8)]


def engines(*answers: Callable[[int, Request], object]) -> EnginePool:
    """A pool with one engine for each function, which makes (place, texts) or an exception of a place and a request."""

    def work(pipe: Connection, answer: Callable[[int, Request], object]) -> None:
        try:
            while True:
                pipe.send(answer(*pipe.recv()))
        except (EOFError, OSError):
            return

    together = EnginePool.__new__(EnginePool)
    together.name, together._pipes = "m", []
    for answer in answers:
        ours, theirs = multiprocessing.Pipe()
        threading.Thread(target=work, args=(theirs, answer), daemon=True).start()
        together._pipes.append(ours)
    return together


def says(text: str) -> Callable[[int, Request], object]:
    return lambda place, request: (place, [Completion(text, 1, 1)])


def test_neighbours_with_the_same_pictures_share_an_engine() -> None:
    done = dict(engines(says("a"), says("b")).generate(REQUESTS))
    texts = [done[place][0].text for place in range(8)]
    assert texts[::2] == texts[1::2] and set(texts) == {"a", "b"}


def test_an_engines_error_is_raised_here() -> None:
    with pytest.raises(ValueError, match="too long"):
        list(engines(lambda place, request: ValueError("too long")).generate(REQUESTS))


def test_an_error_that_cannot_be_made_from_a_message_reaches_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr(vllm, "VllmEngine", fail)
    ours, theirs = multiprocessing.Pipe()
    pool._run_engine(theirs, "", "m", None, 1)
    error = ours.recv()
    assert type(error) is ValueError and "invalid start byte" in str(error)


@pytest.mark.parametrize("before", range(3))
def test_an_engine_that_ends_is_told(before: int) -> None:
    """What it had done comes first, even if it has ended before it is sent anything."""
    together, (ours, theirs) = engines(), multiprocessing.Pipe()
    together._pipes.append(ours)
    for place in range(before):
        theirs.send((place, []))
    theirs.close()
    done = []
    with pytest.raises(ChildProcessError, match="m: an engine's process ended"):
        for each in together.generate(REQUESTS):
            done.append(each)
    assert done == [(place, []) for place in range(before)]


def test_what_a_call_left_open_is_not_taken_for_the_next_ones() -> None:
    together = engines(says("a"))
    next(stream := together.generate(REQUESTS))
    stream.close()
    with pytest.raises(OSError, match="closed"):
        list(together.generate(REQUESTS))
