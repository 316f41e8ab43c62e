# SPDX-License-Identifier: Apache-2.0
"""What a selection has spent, for answering and for judging: usage.json in the run folder.

Each part has calls, prompt_tokens, image_tokens and completion_tokens, which follow from the lines of the run (null if the engine does not
return them). metered is what the engine was seen to do: the calls that were timed, their seconds, and cached_tokens, the part of their
prompt tokens that it had computed before. It adds up over resumed runs; calls that a killed process had made are not metered.
"""

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from critic_r1_verl.engines.base import Done, Engine, Request
from critic_r1_verl.files import read_object, write_json
from critic_r1_verl.lines import Answer, Match

FILE = "usage.json"

Number = TypeVar("Number", int, float)


class Meter:
    """An Engine that counts what another one does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name
        self.calls, self.seconds = 0, 0.0
        self.cached_tokens: int | None = 0

    @property
    def left_out(self) -> Collection[str]:
        return self._engine.left_out

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        start = time.monotonic()
        try:
            for index, completions in self._engine.generate(requests):
                self.calls += 1
                # The prompt is computed once for all completions of a request.
                self.cached_tokens = added([self.cached_tokens, completions[0].cached_tokens])
                yield index, completions
        finally:
            self.seconds += time.monotonic() - start


@contextmanager
def metered(folder: Path, part: str, engine: Engine) -> Iterator[Meter]:
    """Meter the engine while the block runs, and add what it did to `part` of usage.json, also after an error."""
    meter = Meter(engine)
    try:
        yield meter
    finally:
        if meter.calls:
            old = read(folder).get(part, {}).get("metered", {"calls": 0, "seconds": 0.0, "cached_tokens": 0})
            cached = added([old["cached_tokens"], meter.cached_tokens])
            new = {"calls": old["calls"] + meter.calls, "seconds": round(old["seconds"] + meter.seconds, 3), "cached_tokens": cached}
            update(folder, part, {"metered": new})


def read(folder: Path) -> dict[str, Any]:
    """usage.json of a run folder, {} if there is none yet."""
    file = folder / FILE
    return read_object(file, "delete it, and the counts of the next run start from zero") if file.is_file() else {}


def update(folder: Path, part: str, counts: dict[str, Any]) -> None:
    """Add these keys to a part of usage.json, or replace them there."""
    found = read(folder)
    write_json(folder / FILE, found | {part: found.get(part, {}) | counts})


def of_answers(answers: Iterable[Answer]) -> dict[str, Any]:
    """The counts of the sampled answers. The prompt of a question counts once, because all its samples are made from one request."""
    samples = [answer for answer in answers if answer.kind == "sample"]
    firsts = [answer for answer in samples if answer.sample == 0]
    return {
        "calls": len(firsts),
        "prompt_tokens": added(answer.prompt_tokens for answer in firsts),
        "image_tokens": added(answer.image_tokens for answer in firsts),
        "completion_tokens": added(answer.completion_tokens for answer in samples),
    }


def of_matches(matches: Iterable[Match]) -> dict[str, Any]:
    """The counts of the verdicts."""
    found = list(matches)
    return {"calls": len(found)} | {
        name: added(getattr(match, name) for match in found) for name in ("prompt_tokens", "image_tokens", "completion_tokens")
    }


def added(numbers: Iterable[Number | None]) -> Number | None:
    """The sum, None if a number is not known."""
    known = list(numbers)
    return None if None in known else sum(number for number in known if number is not None)
