# SPDX-License-Identifier: Apache-2.0
"""A supervisor for each run, which makes sure that no process, no shared memory and no temporary folder is left when the run ends.

The driver is the process that starts the other processes of a run: verl's trainer, or a command that starts vLLM. watch() and attach()
start the supervisor, a small process in a separate session (__main__.py). When the driver has ended, for whatever reason, the supervisor
ends the members of the run, which are its other processes (run.py). Then it deletes the segments that they left in /dev/shm and the
temporary folder of the run (storage.py). It also ends a training that hangs because an essential worker died. Linux only.

The supervisor keeps a state file in /dev/shm. If the supervisor itself was killed, leftovers() reads there what the run left.

Optional environment variables, in seconds, read when the supervisor is started:
    CRITIC_R1_GRACE_SECONDS how long the members may take to end by themselves after the driver has ended (5)
    CRITIC_R1_HANG_SECONDS  how long a training may continue after an essential worker died (60)
"""

import os
import re
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from critic_r1_verl import files
from critic_r1_verl.supervise.run import POLL_SECONDS, RUN, SUPERVISOR, Run, find, key, read_state, state_path, title
from critic_r1_verl.supervise.storage import SHM, new_folder, remove_folder

__all__ = ["RUN", "SHM", "Leftover", "attach", "leftovers", "new_folder", "new_id", "reap", "remove_folder", "wait", "watch"]

GRACE_SECONDS = "CRITIC_R1_GRACE_SECONDS"
HANG_SECONDS = "CRITIC_R1_HANG_SECONDS"


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a run left after its driver and its supervisor ended: processes as (pid, title), names in /dev/shm, a folder."""

    run: str
    processes: tuple[tuple[int, str], ...]
    segments: tuple[str, ...]
    folder: str | None


def new_id() -> str:
    """A random run id."""
    return secrets.token_hex(8)


def attach(*, training: bool = False) -> None:
    """Start a supervisor with this process as the driver. Does nothing if this process already belongs to a run.

    training: as for watch(). ValueError for a malformed number of seconds in the environment.
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
) -> None:
    """Start the supervisor of the driver with this process id. In the driver's environment CRITIC_R1_RUN must be run_id.

    training: also end the run if a process that run.ESSENTIAL matches died and the run hangs. tie_to: the id of another process whose end
    also ends the run. folder: made by new_folder(run_id), deleted with the run. log: where the supervisor writes why it ended the run, by
    default stderr. ValueError for a malformed number of seconds in the environment.
    """
    state: dict[str, Any] = {
        "driver": key(psutil.Process(driver)),
        "tie_to": key(psutil.Process(tie_to)) if tie_to else None,
        "grace_seconds": _seconds(GRACE_SECONDS, "5"),
        "hang_seconds": _seconds(HANG_SECONDS, "60") if training else None,
        "folder": str(folder) if folder else None,
        "supervisor": None,
        "members": [],
        "segments": {},
    }
    files.write_json(state_path(run_id), state)
    command = [sys.executable, "-m", "critic_r1_verl.supervise", run_id]
    environment = {**os.environ, RUN: SUPERVISOR}
    # Nobody waits for the supervisor, because it ends after this process.
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True, env=environment)


def wait(run_id: str, timeout_seconds: float) -> bool:
    """Wait until nothing of the run is left. False after timeout_seconds; True at once for a run that was never watched."""
    deadline = time.monotonic() + timeout_seconds
    while state_path(run_id).exists():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def leftovers() -> list[Leftover]:
    """The runs of this user that left something although driver and supervisor have ended. reap() cleans up after one of them."""
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
    """End the remaining processes of a run, delete its segments and its folder. ValueError if its driver or supervisor is alive."""
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
        raise ValueError(f"{name}={value}: not a number of seconds; give 0 or more")
    return float(value)
