# SPDX-License-Identifier: Apache-2.0
"""A supervisor for each run: however the run ends, it leaves no process behind, no shared memory and no temporary folder.

The driver is the process that starts the others of a run: verl's trainer, or a command that starts vLLM. watch() and attach() start the
supervisor, a small process in a session of its own (__main__.py). When the driver is gone, for whatever reason, the supervisor ends the
members of the run, which are its other processes (run.py). Then it removes the segments that they left in /dev/shm and the temporary
folder of the run (storage.py). In a training it also ends a run that hangs because one of its essential workers died. The device of the
run does not matter. Linux only. A training of `critic-r1 train` also ends when it is stuck without having lost anyone (stall.py).

The supervisor keeps a state file in /dev/shm, from which leftovers() knows what a run left when the supervisor itself was killed.

Environment, all optional, read when the supervisor is started:
    CRITIC_R1_GRACE_SECONDS how long the members may take to end by themselves once the driver is gone (5)
    CRITIC_R1_HANG_SECONDS  how long a training may go on after an essential worker died (60)
    CRITIC_R1_STALL_SECONDS how long a training may write neither a line nor a step (1800); 0 lets it be silent for ever
"""

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from critic_r1_verl import files
from critic_r1_verl.supervise.run import RUN, SUPERVISOR, Run, find, key, read_state, state_path, title
from critic_r1_verl.supervise.storage import SHM, new_folder, remove_folder

__all__ = ["RUN", "SHM", "Leftover", "attach", "leftovers", "new_folder", "new_id", "reap", "remove_folder", "wait", "watch"]

GRACE_SECONDS = "CRITIC_R1_GRACE_SECONDS"
HANG_SECONDS = "CRITIC_R1_HANG_SECONDS"
STALL_SECONDS = "CRITIC_R1_STALL_SECONDS"
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a run left although its driver and its supervisor are gone: processes (pid, title), names in /dev/shm, a folder."""

    run: str
    processes: tuple[tuple[int, str], ...]
    segments: tuple[str, ...]
    folder: str | None


def new_id() -> str:
    """A random run id."""
    return secrets.token_hex(8)


def attach(*, training: bool = False) -> None:
    """Start a supervisor with this process as the driver. Does nothing in a process that belongs to a run already.

    training: as for watch(). Raises ValueError for a bad number of seconds in the environment.
    """
    if RUN not in os.environ:
        run_id = new_id()
        watch(run_id, os.getpid(), training=training)
        os.environ[RUN] = run_id


def watch(
    run_id: str,
    driver: int,
    *,
    training: bool,
    tie_to: int | None = None,
    folder: Path | None = None,
    log: IO[bytes] | None = None,
    progress: Sequence[Path] = (),
) -> None:
    """Start the supervisor of the process with the id `driver`, in whose environment CRITIC_R1_RUN must be run_id.

    training: also end the run when a process that run.ESSENTIAL names died and the run did not end by itself. tie_to: the id of a process
    whose end also ends the run. folder: made by new_folder(run_id), removed with the run. log: where the supervisor says why it ended a
    run, by default stderr. progress: the files that a training writes, its log and last its steps, by which one that is stuck is known.
    Raises ValueError for a bad number of seconds in the environment.
    """
    state: dict[str, Any] = {
        "driver": key(psutil.Process(driver)),
        "tie_to": key(psutil.Process(tie_to)) if tie_to else None,
        "grace_seconds": _seconds(GRACE_SECONDS, "5"),
        "hang_seconds": _seconds(HANG_SECONDS, "60") if training else None,
        "stall_seconds": _seconds(STALL_SECONDS, "1800"),
        "progress": [str(file.absolute()) for file in progress],
        "folder": str(folder) if folder else None,
        "supervisor": None,
        "members": [],
        "segments": {},
    }
    files.write_json(state_path(run_id), state)
    command = [sys.executable, "-m", "critic_r1_verl.supervise", run_id]
    environment = {**os.environ, RUN: SUPERVISOR}
    # Not waited for: it outlives this process.
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True, env=environment)


def wait(run_id: str, timeout_seconds: float) -> bool:
    """Wait until nothing of the run is left, at most so many seconds. True if so, and at once for a run that was never watched."""
    deadline = time.monotonic() + timeout_seconds
    while state_path(run_id).exists():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def leftovers() -> list[Leftover]:
    """The runs of this user whose driver and supervisor are both gone although something is left; reap() cleans up after one."""
    found = []
    for path in sorted(SHM.glob(f"{state_path('').stem}*.json")):
        run_id = path.stem.removeprefix(state_path("").stem)
        state = read_state(run_id)
        if state is None or _watched(state):
            continue
        run = Run(run_id, state)
        run.scan()
        processes = tuple((process.pid, title(process.pid)) for process in run.members)
        segments = tuple(sorted(name for name in run.segments if (SHM / name).exists()))
        folder = state["folder"]
        found.append(Leftover(run_id, processes, segments, folder if folder and Path(folder).exists() else None))
    return found


def reap(run_id: str) -> None:
    """End what is left of a run and remove its segments and its folder. Raises ValueError while its driver or its supervisor is alive."""
    state = read_state(run_id)
    if state is None:
        return
    if _watched(state):
        raise ValueError(f"run {run_id} is alive; end its driver, process {state['driver'][0]}, instead")
    Run(run_id, state).end(grace_seconds=0.0)


def _watched(state: dict[str, Any]) -> bool:
    return bool(find(state["driver"]) or find(state["supervisor"]))


def _seconds(name: str, default: str) -> float:
    value = os.environ.get(name, default)
    if not re.fullmatch(r"\d+(\.\d+)?", value):
        raise ValueError(f"{name}={value}: not a number of seconds; give one of 0 or more")
    return float(value)
