# SPDX-License-Identifier: Apache-2.0
"""The processes and segments of one run, which are found by repeated scans, and the state file that holds them.

A process is a member of the run if CRITIC_R1_RUN in its environment is the run's id. Otherwise it is a member if, when it is first seen,
its parent is the driver or a member. Both rules are needed: Ray and vLLM overwrite their environment with their process titles, and the
parent of an orphan has ended. The second rule does not apply to processes that are older than the supervisor. So an existing Ray cluster
and its workers, which the driver did not start, are never members: the supervisor does not end them, and their end does not end the run.
"""

import contextlib
import json
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from critic_r1_verl import files, foreign
from critic_r1_verl.supervise import storage

RUN = "CRITIC_R1_RUN"
# The value of CRITIC_R1_RUN in every supervisor. Supervisors belong to no run, so that no supervisor ends another.
SUPERVISOR = "supervisor"

POLL_SECONDS = 0.1
TERMINATE_SECONDS = 2.0
KILL_SECONDS = 30.0

# Processes without which no training step can finish. Idle workers and agents of Ray may end at any time and are not essential.
ESSENTIAL = re.compile(
    r"ray::(?:TaskRunner|WorkerDict|ActorRolloutRefWorker|TrainingWorker|CheckpointEngineWorker|vLLMHttpServer|AgentLoopWorker|RewardLoopWorker"
    r"|GlobalRequestLoadBalancer|TransferQueueController|SimpleStorageUnit)\w*|VLLM::(?:EngineCore|Worker)\w*|(?<![^/])(?:raylet|gcs_server)$"
)

# Identifies a process in the state file: its id, and its start time in seconds since boot.
Key = tuple[int, float]


@dataclass(slots=True)
class _Seen:
    """What scans found out about a process. owner: the id of its run, SUPERVISOR, or None. parent: the id of its parent process."""

    owner: str | None = None
    looks: int = 0
    parent: int = 0


class Run:
    """One run. members: its live processes without driver and supervisor. segments: {name in /dev/shm: inode}."""

    def __init__(self, run_id: str, state: dict[str, Any]) -> None:
        self.run_id, self._state = run_id, state
        self._saved: dict[str, Any] | None = None
        self.driver = find(state["driver"])
        self.members: list[psutil.Process] = []
        self.segments: dict[str, int] = dict(state["segments"])
        self._oldest_seconds = (state["supervisor"] or state["driver"])[1]
        known = [self.driver, *map(find, state["members"])]
        self._seen = {process: _Seen(run_id, looks=2) for process in known if process}
        self._keys: dict[psutil.Process, Key] = {}
        self._essential: dict[psutil.Process, str] = {}
        self._lost_since: dict[psutil.Process, float] = {}
        self._segments_before = set(storage.shm_files().items())
        self._segment_tries: Counter[tuple[str, int]] = Counter()

    def scan(self, *, all_segments: bool = False) -> None:
        """Update members and segments from all processes of the machine. It takes about 0.015 ms for each process that is not new."""
        live = [process for process in psutil.process_iter() if process.is_running()]
        self._seen = {process: self._seen.get(process) or _Seen() for process in live}
        # Look twice at each process: at the first time it may not have called exec yet, and then it has the environment of its parent.
        new = {process: seen for process, seen in self._seen.items() if seen.looks < 2}
        for process, seen in new.items():
            seen.looks += 1
            with contextlib.suppress(psutil.Error):
                seen.parent = process.ppid()
                seen.owner = process.environ().get(RUN) or seen.owner
        while self._inherit(new):
            pass
        excluded = (self.driver, psutil.Process())
        self.members = [p for p, seen in self._seen.items() if seen.owner == self.run_id and p not in excluded and is_alive(p)]
        self._keys = {process: self._keys.get(process) or key(process) for process in self.members}
        self._scan_essential()
        self._scan_segments(all_segments)

    def save(self) -> None:
        """Write the state file if the state has changed."""
        state = self._state | {"members": list(self._keys.values()), "segments": dict(self.segments)}
        if state != self._saved:
            files.write_json(state_path(self.run_id), state)
            self._saved = state

    def lost(self, seconds: float) -> str | None:
        """An essential process that ended at least so many seconds ago, such as 'ray::WorkerDict (process 17)', or None."""
        for process, since_seconds in self._lost_since.items():
            if time.monotonic() - since_seconds >= seconds:
                return f"{self._essential[process]} (process {process.pid})"
        return None

    def end(self, grace_seconds: float) -> None:
        """Wait grace_seconds, then send SIGTERM, then SIGKILL. When no process is left, delete segments, folder and state file.

        If a process is alive KILL_SECONDS after SIGKILL, print the processes to stderr and delete nothing.
        """
        # Signal 0 has no effect; it stands for waiting.
        stages = ((0, grace_seconds), (signal.SIGTERM, min(grace_seconds, TERMINATE_SECONDS)), (signal.SIGKILL, KILL_SECONDS))
        for number, seconds in stages:
            deadline = time.monotonic() + seconds
            signalled: set[psutil.Process] = set()
            while left := self._left():
                for process in left - signalled:
                    send(process, number)
                signalled |= left
                if time.monotonic() >= deadline:
                    break
                time.sleep(POLL_SECONDS)
            if not left:
                break
        else:
            pids = ", ".join(str(process.pid) for process in left)
            say(f"could not end the processes {pids} of run {self.run_id}; `critic-r1 doctor` lists them")
            return
        self._remove_segments()
        if self._state["folder"]:
            try:
                storage.remove_folder(Path(self._state["folder"]), self.run_id)
            except (OSError, ValueError) as error:
                say(str(error))
        state_path(self.run_id).unlink(missing_ok=True)

    def _inherit(self, new: dict[psutil.Process, _Seen]) -> bool:
        """Give each new process without an owner the owner of its parent. Returns whether any process got one."""
        by_pid = {process.pid: seen for process, seen in self._seen.items()}
        changed = False
        for process, seen in new.items():
            parent = by_pid.get(seen.parent)
            if seen.owner is None and parent and parent.owner and key(process)[1] >= self._oldest_seconds:
                seen.owner, changed = parent.owner, True
        return changed

    def _scan_essential(self) -> None:
        for process in self.members:
            if process not in self._essential:
                name = essential_name(process.pid)
                # A forked helper, such as a data loader's worker, has the title of its parent and may end at any time.
                if name and name != essential_name(self._seen[process].parent):
                    self._essential[process] = name
        for process in self._essential.keys() - set(self.members):
            self._lost_since.setdefault(process, time.monotonic())

    def _scan_segments(self, everything: bool) -> None:
        unknown = storage.shm_files().items() - self._segments_before - self.segments.items()
        # A file that no process of this run holds in three scans belongs to somebody else.
        unknown = {item for item in unknown if everything or self._segment_tries[item] < 3}
        if unknown:
            self._segment_tries.update(unknown)
            held = set().union(*map(storage.held_inodes, [self.driver, *self.members] if self.driver else self.members))
            self.segments.update({name: inode for name, inode in unknown if inode in held})

    def _left(self) -> set[psutil.Process]:
        """The live processes of the run, including the driver. Scans twice before it returns an empty set."""
        left: set[psutil.Process] = set()
        for _ in range(2):
            self.scan(all_segments=True)
            self.save()
            left = {process for process in (self.driver, *self.members) if is_alive(process)}
            if left:
                break
        return left

    def _remove_segments(self) -> None:
        existing = self.segments.items() & storage.shm_files().items()
        held = set().union(*map(storage.held_inodes, psutil.process_iter())) if existing else set()
        for name, inode in existing:
            if inode not in held:
                (storage.SHM / name).unlink(missing_ok=True)


def key(process: psutil.Process) -> Key:
    """The key of a process. Its start time counts from boot, because the time of day changes when the clock is set.

    psutil caches create_time(), so call this soon after psutil has found the process.
    """
    return process.pid, round(process.create_time() - psutil.boot_time(), 2)


def find(key_: Key | None) -> psutil.Process | None:
    """The live process with this key, or None."""
    with contextlib.suppress(psutil.Error):
        # The boot time is precise to a second only. A process id is not reused within 2 seconds.
        if key_ and abs(key(process := psutil.Process(key_[0]))[1] - key_[1]) < 2 and is_alive(process):
            return process
    return None


def is_alive(process: psutil.Process | None) -> bool:
    """Whether a process runs. A zombie does not: it has ended, but its parent has not collected its exit status yet."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def send(process: psutil.Process | None, number: int) -> None:
    """Send a signal to a process. psutil checks that its id does not belong to another process now."""
    with contextlib.suppress(psutil.Error):
        if process is not None:
            process.send_signal(number)


def title(pid: int) -> str:
    """The command line of a process, or the title that it has set instead; empty if the process has ended."""
    try:
        return " ".join(filter(None, psutil.Process(pid).cmdline()))
    except psutil.Error:
        return ""


def essential_name(pid: int) -> str | None:
    """The part of a process title that ESSENTIAL matches; None if the process is not essential."""
    match = ESSENTIAL.search(title(pid).partition(" ")[0])
    return match[0] if match else None


def state_path(run_id: str) -> Path:
    """The path of the state file of a run of this user."""
    return storage.SHM / f"{storage.STATE_PREFIX}{os.geteuid()}_{run_id}.json"


def read_state(run_id: str) -> dict[str, Any] | None:
    """The content of the state file. None if there is none, or if another user or another version of this package made it."""
    try:
        with state_path(run_id).open() as file:
            # Every user can write to /dev/shm.
            state = json.load(file) if os.fstat(file.fileno()).st_uid == os.geteuid() else {}
    except FileNotFoundError:
        return None
    return state if {"driver", "supervisor", "members", "segments", "folder"} <= state.keys() else None


def say(text: str) -> None:
    """Print to stderr. Errors are ignored, because the supervisor must continue after its terminal or pipe was closed."""
    with contextlib.suppress(OSError):
        foreign.say(f"critic-r1: {text}", stderr=True)
