# SPDX-License-Identifier: Apache-2.0
"""The processes and segments of one run, followed from scan to scan, and the state file in which they stand.

A process is a member if the variable CRITIC_R1_RUN in its environment names the run, or else if its parent is a member or the driver when
it is first seen. Both are needed: Ray and vLLM write their process titles over the memory from which the environment is read, and the
parent of an orphan is gone. What was running before the supervisor does not become a member by its parent. So an existing Ray cluster and
its workers, which the driver did not start, are never members: the supervisor neither ends them nor misses them.
"""

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from critic_r1_verl import files
from critic_r1_verl.supervise import storage

RUN = "CRITIC_R1_RUN"
# What CRITIC_R1_RUN says in the supervisors themselves. They are members of no run, so none of them ends another.
SUPERVISOR = "supervisor"

POLL_SECONDS = 0.1
TERMINATE_SECONDS = 2.0
KILL_SECONDS = 30.0

# Processes without which no training step can finish. Idle Ray workers and Ray's agents come and go and are not among them.
ESSENTIAL = re.compile(
    r"ray::(?:TaskRunner|WorkerDict|ActorRolloutRefWorker|TrainingWorker|CheckpointEngineWorker|vLLMHttpServer|AgentLoopWorker|RewardLoopWorker"
    r"|GlobalRequestLoadBalancer|TransferQueueController|SimpleStorageUnit)\w*|VLLM::(?:EngineCore|Worker)\w*|(?<![^/])(?:raylet|gcs_server)$"
)

# What names a process in a file: its id, and its start in seconds since boot.
Key = tuple[int, float]


@dataclass(slots=True)
class _Seen:
    """What is known of a process. owner: the id of its run, SUPERVISOR, or None."""

    owner: str | None = None
    looks: int = 0
    parent: int = 0


class Run:
    """members: the live processes of the run without driver and supervisor. segments: name in /dev/shm -> inode."""

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
        """Look once at all processes of the machine. It costs about 0.015 ms for each of them, and more only for those that are new."""
        live = [process for process in psutil.process_iter() if process.is_running()]
        self._seen = {process: self._seen.get(process) or _Seen() for process in live}
        # Twice, since the first look may fall between fork and exec, when the environment is still that of the parent.
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
        """Write the state file if something has changed."""
        state = self._state | {"members": list(self._keys.values()), "segments": dict(self.segments)}
        if state != self._saved:
            files.write_json(state_path(self.run_id), state)
            self._saved = state

    def lost(self, seconds: float) -> str | None:
        """The essential process that has been gone for so many seconds, as 'ray::WorkerDict (process 17)'; None if there is none."""
        for process, since_seconds in self._lost_since.items():
            if time.monotonic() - since_seconds >= seconds:
                return f"{self._essential[process]} (process {process.pid})"
        return None

    def end(self, grace_seconds: float) -> None:
        """Wait so many seconds, then SIGTERM, then SIGKILL until no process is left; then remove segments, folder and state file.

        Processes that withstand SIGKILL for KILL_SECONDS are named on stderr, and nothing is removed.
        """
        # Signal 0 does nothing.
        stages = ((0, grace_seconds), (signal.SIGTERM, min(grace_seconds, TERMINATE_SECONDS)), (signal.SIGKILL, KILL_SECONDS))
        for number, seconds in stages:
            deadline = time.monotonic() + seconds
            told: set[psutil.Process] = set()
            while left := self._left():
                for process in left - told:
                    send(process, number)
                told |= left
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
        """Give the new processes without a mark the run of their parent; False if nothing was left to give."""
        by_pid = {process.pid: seen for process, seen in self._seen.items()}
        given = False
        for process, seen in new.items():
            parent = by_pid.get(seen.parent)
            if seen.owner is None and parent and parent.owner and key(process)[1] >= self._oldest_seconds:
                seen.owner, given = parent.owner, True
        return given

    def _scan_essential(self) -> None:
        for process in self.members:
            if process not in self._essential:
                name = essential_name(process.pid)
                # A forked helper (a data loader's worker, a subprocess before its exec) shows its parent's title and may end at any time.
                if name and name != essential_name(self._seen[process].parent):
                    self._essential[process] = name
        for process in self._essential.keys() - set(self.members):
            self._lost_since.setdefault(process, time.monotonic())

    def _scan_segments(self, everything: bool) -> None:
        unknown = [item for item in storage.shm_files().items() if item not in self._segments_before and item not in self.segments.items()]
        # After three scans without a holder in this run, a new file is somebody else's.
        unknown = [item for item in unknown if everything or self._segment_tries[item] < 3]
        if unknown:
            self._segment_tries.update(unknown)
            held = set().union(*map(storage.held_inodes, [self.driver, *self.members] if self.driver else self.members))
            self.segments.update({name: inode for name, inode in unknown if inode in held})

    def _left(self) -> set[psutil.Process]:
        """The processes of the run that are alive, driver included; looks twice before it says that there is none."""
        left: set[psutil.Process] = set()
        for _ in range(2):
            self.scan(all_segments=True)
            self.save()
            left = {process for process in (self.driver, *self.members) if is_alive(process)}
            if left:
                break
        return left

    def _remove_segments(self) -> None:
        mine = {name: inode for name, inode in self.segments.items() if (name, inode) in storage.shm_files().items()}
        held = set().union(*map(storage.held_inodes, psutil.process_iter())) if mine else set()
        for name, inode in mine.items():
            if inode not in held:
                (storage.SHM / name).unlink(missing_ok=True)


def key(process: psutil.Process) -> Key:
    """The key of a process. The time since boot does not change when somebody sets the clock; the time of day of the start does.

    psutil keeps its first answer to create_time(), so ask for the key soon after psutil has found the process.
    """
    return process.pid, round(process.create_time() - psutil.boot_time(), 2)


def find(key_: Key | None) -> psutil.Process | None:
    """The live process of a key."""
    with contextlib.suppress(psutil.Error):
        # The time of the boot is known to a second only. No process id is used again so soon.
        if key_ and abs(key(process := psutil.Process(key_[0]))[1] - key_[1]) < 2 and is_alive(process):
            return process
    return None


def is_alive(process: psutil.Process | None) -> bool:
    """False for a zombie too: it has ended, and its parent has not yet asked for its exit status."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def send(process: psutil.Process | None, number: int) -> None:
    """Send a signal to a process; psutil makes sure that its id has not passed to another one."""
    with contextlib.suppress(psutil.Error):
        if process is not None:
            process.send_signal(number)


def title(pid: int) -> str:
    """The command line of a process, which is where one that renamed itself shows its title; empty if the process is gone."""
    try:
        return " ".join(filter(None, psutil.Process(pid).cmdline()))
    except psutil.Error:
        return ""


def essential_name(pid: int) -> str | None:
    """The title of a process as ESSENTIAL knows it; None for another process."""
    match = ESSENTIAL.search(title(pid).partition(" ")[0])
    return match[0] if match else None


def state_path(run_id: str) -> Path:
    """Where the state of a run stands: one file a run and user."""
    return storage.SHM / f"{storage.STATE_PREFIX}{os.geteuid()}_{run_id}.json"


def read_state(run_id: str) -> dict[str, Any] | None:
    """None where there is no state file, or one that another user made: /dev/shm is open to all."""
    try:
        with state_path(run_id).open() as file:
            return json.load(file) if os.fstat(file.fileno()).st_uid == os.geteuid() else None
    except FileNotFoundError:
        return None


def say(text: str) -> None:
    """Print to stderr; a closed terminal or pipe must not keep the supervisor from its work."""
    with contextlib.suppress(OSError):
        print(f"critic-r1: {text}", file=sys.stderr, flush=True)
