# SPDX-License-Identifier: Apache-2.0
"""Child processes: they get the signals of their parent, and do not outlive it."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from critic_r1_verl import foreign

TIED = "CRITIC_R1_END_WITH_PARENT"
"""Set in the environment of the children of run()."""

_TAIL_LINES = 5


def end_with_parent() -> None:
    """If make or run() started this process, let it get SIGTERM when the parent dies, which a parent killed by `kill -9` cannot send."""
    if {"MAKELEVEL", TIED} & os.environ.keys() and sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


@contextlib.contextmanager
def forwarded_signals(process: subprocess.Popen, received: list[int]) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on to a process, which has a session of its own that the terminal does not reach.

    received: the signals that came. A second one kills the process.
    """

    def forward(number: int, _frame: object) -> None:
        # SIGTERM for SIGINT too: a shell that starts a command in the background has it ignore SIGINT. Ray shuts down on SIGTERM as well.
        process.send_signal(signal.SIGKILL if received else signal.SIGTERM)
        received.append(number)

    # Python allows signal handlers in the main thread only.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run(*words: str, log: Path | None = None) -> None:
    """Run `python WORDS...` to its end. log: the file that gets its output; without it, the output goes to the terminal.

    ValueError, with the last lines of the log, if it fails. SystemExit with 128 + n if signal n came, once it has ended.
    """
    signals: list[int] = []
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("w", encoding="utf-8")) if log else None
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {TIED: "1"},
                start_new_session=True,
            )
        )
        stack.enter_context(forwarded_signals(process, signals))
        status = process.wait()
    if signals:
        raise SystemExit(128 + signals[0])
    if status:
        if log:
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
            foreign.say("\n".join(tail), stderr=True)
        where = f"; its whole output is in {log}" if log else ""
        raise ValueError(f"python {' '.join(words[:3])} ... failed with exit status {status}{where}")
