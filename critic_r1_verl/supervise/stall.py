# SPDX-License-Identifier: Apache-2.0
"""Notices a training that is stuck although all of its processes live, and shows where they stand.

A weight sync that failed on one side, or a collective that one rank never entered, waits for ever without an error. What such a run has in
common is that it writes nothing. But a long step writes nothing either, so the limit follows the run: it is the number of seconds that the
user allows, or three times the longest silence that ended by itself, whichever is more. Until the first step nothing is known about how
long a step takes (vLLM may compile, and 2,000 rollouts on one small GPU take an hour), so the allowed seconds count fourfold.

The stacks come from the processes themselves, by faulthandler, which answers a signal even while the interpreter waits inside NCCL.
A debugger from outside, such as py-spy, needs the right to trace a process, which containers mostly lack.
"""

import contextlib
import faulthandler
import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

# A real-time signal: neither Python, Ray, vLLM nor torch uses one, and SIGUSR1 and SIGUSR2 are vLLM's and torch's.
SIGNAL = signal.SIGRTMIN + 10
NAME = "critic_r1_stacks"

FIRST_STEP_FACTOR = 4
LONGEST_FACTOR = 3
POLL_SECONDS = 0.05
ANSWER_SECONDS = 2.0


class Silence:
    """How long the files that a run writes have not grown. files: the log, and last the step file. seconds: allowed; 0 is any time."""

    def __init__(self, files: Sequence[Path], seconds: float) -> None:
        self._files, self._seconds = files, seconds
        self._sizes, self._since_seconds = self._look(), time.monotonic()
        self._first_steps_size = self._sizes[-1] if self._sizes else 0
        self._longest_seconds = 0.0

    def too_long(self) -> float | None:
        """Look at the files; the seconds of a silence that is longer than the limit, else None."""
        if not self._files or not self._seconds:
            return None
        now_seconds, sizes = time.monotonic(), self._look()
        lasted_seconds = now_seconds - self._since_seconds
        if sizes != self._sizes:
            self._longest_seconds = max(self._longest_seconds, lasted_seconds)
            self._sizes, self._since_seconds = sizes, now_seconds
            return None
        has_stepped = sizes[-1] > self._first_steps_size
        allowed_seconds = self._seconds * (1 if has_stepped else FIRST_STEP_FACTOR)
        return lasted_seconds if lasted_seconds > max(allowed_seconds, LONGEST_FACTOR * self._longest_seconds) else None

    def _look(self) -> tuple[int, ...]:
        return tuple(file.stat().st_size if file.exists() else 0 for file in self._files)


def register() -> None:
    """Let this process write the stacks of its threads into memory whenever it gets SIGNAL; from there stacks_of() reads them."""
    if not _open_files(os.getpid()):
        faulthandler.register(SIGNAL, file=os.memfd_create(NAME), all_threads=True)


def stacks_of(processes: Iterable[psutil.Process]) -> dict[psutil.Process, str]:
    """Where the threads of each registered process stand, innermost call first; "" for one that does not answer."""
    found = {}
    for process in processes:
        # Without the file the process is not registered, and the signal would end it.
        with contextlib.suppress(OSError, psutil.Error):
            for file in _open_files(process.pid):
                found[process] = _answer(process, file)
    return found


def _answer(process: psutil.Process, file: Path) -> str:
    """What the process writes into the file when it gets the signal; a forked process shares the file, so only what is new is its own."""
    start = file.stat().st_size
    process.send_signal(SIGNAL)
    deadline = time.monotonic() + ANSWER_SECONDS
    size = -1
    # It has answered once the file has grown and grows no more.
    while time.monotonic() < deadline and not start < size == file.stat().st_size:
        size = file.stat().st_size
        time.sleep(POLL_SECONDS)
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read().decode(errors="replace").rstrip()


def _open_files(pid: int) -> list[Path]:
    """The files in memory of this name that a process holds open; at most one."""
    found = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(file).startswith(f"/memfd:{NAME}"):
                found.append(file)
    return found
