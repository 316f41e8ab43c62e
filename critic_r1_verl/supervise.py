# SPDX-License-Identifier: Apache-2.0
"""However a training run ends, nothing stays behind; and a run whose worker died ends with an error instead of hanging.

attach(), called in the driver, puts CRITIC_R1_RUN=<id> into the environment that Ray and vLLM inherit and starts a watcher, the reaper, in
a session of its own. When the driver is gone, for whatever reason, the reaper ends every process of the run, then removes the shared memory
that they left in /dev/shm and the run's temporary folder. Linux only: everything is read from /proc.

A process belongs to the run if its environment carries the id, or else if its parent or the leader of its session belongs to it. All three
are needed: Ray and vLLM write their process titles over the memory that /proc/PID/environ shows, and orphans have lost their parent. What
the reaper has found also stands in a state file, so that leftovers() knows it should the reaper itself be killed.

Environment, all optional, read by attach():
    CRITIC_R1_TIE_TO        pid of a process; the run ends when it does
    CRITIC_R1_TMP           folder made by new_folder(); removed with the run
    CRITIC_R1_GRACE_SECONDS how long the others may take to end by themselves once the driver is gone (5)
    CRITIC_R1_HANG_SECONDS  how long the driver may live after an essential worker died (60)
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

RUN = "CRITIC_R1_RUN"
TIE_TO = "CRITIC_R1_TIE_TO"
TMP = "CRITIC_R1_TMP"
GRACE_SECONDS = "CRITIC_R1_GRACE_SECONDS"
HANG_SECONDS = "CRITIC_R1_HANG_SECONDS"

FOLDER_MARKER = ".critic_r1_run"
# The mark of reapers: they belong to no run, so none ends another.
REAPER = "reaper"
# Not a temporary folder: local to the machine and empty after a reboot, so that a pid with its start time names one process.
SHM = Path("/dev/shm")

POLL_SECONDS = 0.2
SCAN_SECONDS = 0.5
TERMINATE_SECONDS = 2.0
KILL_SECONDS = 30.0

# Processes without which no step can finish. Idle Ray workers and Ray's agents come and go and are not among them.
ESSENTIAL = re.compile(
    r"ray::(?:TaskRunner|WorkerDict|ActorRolloutRefWorker|TrainingWorker|CheckpointEngineWorker|vLLMHttpServer|AgentLoopWorker|RewardLoopWorker"
    r"|GlobalRequestLoadBalancer|TransferQueueController|SimpleStorageUnit)\w*|VLLM::(?:EngineCore|Worker)\w*|(?<![^/])(?:raylet|gcs_server)$"
)


class Process(NamedTuple):
    """A process that is not a zombie. (pid, start) names it for as long as the machine is up: pids are used again."""

    pid: int
    # clock ticks since boot
    start: int
    parent: int
    session: int

    @property
    def key(self) -> tuple[int, int]:
        return self.pid, self.start


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an earlier run left although its driver and its reaper are gone: processes (pid, title), names in /dev/shm, a folder."""

    run: str
    processes: tuple[tuple[int, str], ...]
    segments: tuple[str, ...]
    folder: str | None


def attach(run_id: str | None = None) -> None:
    """Make this process the driver of a run and start its reaper. Does nothing in a process that belongs to a run already.

    run_id: letters and digits; by default that of the folder CRITIC_R1_TMP, else a random one.
    Raises ValueError for a bad run_id, CRITIC_R1_TIE_TO, CRITIC_R1_TMP or number of seconds.
    """
    if RUN in os.environ:
        return
    folder = os.environ.get(TMP)
    tie_to = os.environ.get(TIE_TO, "")
    if tie_to and not tie_to.isdecimal():
        raise ValueError(f"{TIE_TO}={tie_to}: not a process id; unset it, or give the pid whose end shall end this run")
    seconds = []
    for name, default in ((GRACE_SECONDS, "5"), (HANG_SECONDS, "60")):
        value = os.environ.get(name, default)
        if not re.fullmatch(r"\d+(\.\d+)?", value):
            raise ValueError(f"{name}={value}: not a number of seconds; give one of 0 or more")
        seconds.append(value)
    run_id = run_id or (_folder_run(Path(folder)) if folder else None) or new_id()
    driver = _process(os.getpid())
    assert driver is not None
    _write_state(run_id, driver=driver.key, folder=folder)
    os.environ[RUN] = run_id
    command = [sys.executable, "-m", "critic_r1_verl.supervise", "--run", run_id, "--driver", f"{driver.pid}:{driver.start}"]
    command += ["--grace-seconds", seconds[0], "--hang-seconds", seconds[1]]
    if tie_to:
        tie = _process(int(tie_to))
        # A start time of 0 matches no process: the reaper then finds it gone and ends the run.
        command += ["--tie-to", f"{tie_to}:{tie.start if tie else 0}"]
    environment = {**os.environ, RUN: REAPER}
    # Not waited for: it outlives this process.
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True, env=environment)


def new_id() -> str:
    """A random run id."""
    return secrets.token_hex(8)


def new_folder(run_id: str) -> Path:
    """A new temporary folder with a short path (Ray's sockets lie in it) that the reaper of run_id removes if CRITIC_R1_TMP names it."""
    folder = Path(tempfile.mkdtemp(prefix="critic_r1_"))
    (folder / FOLDER_MARKER).write_text(run_id + "\n")
    return folder


def remove_folder(folder: Path, run_id: str) -> None:
    """Delete a folder of new_folder(); one that is gone is fine. Raises ValueError for any folder without the marker of run_id."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or _folder_run(folder) != run_id:
        raise ValueError(f"{folder}: not the temporary folder of run {run_id}, so it is not deleted")
    shutil.rmtree(folder)


def wait(run_id: str, timeout_seconds: float) -> bool:
    """Wait until nothing of the run is left, at most so many seconds; True if so, and at once where no reaper was attached."""
    deadline = time.monotonic() + timeout_seconds
    while _state_path(run_id).exists():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS / 2)
    return True


def leftovers() -> list[Leftover]:
    """The runs of this user whose driver and reaper are both gone but whose reaper never finished; reap() cleans up after one."""
    found = []
    for path in sorted(SHM.glob(f"{_state_path('').stem}*.json")):
        run_id = path.stem.removeprefix(_state_path("").stem)
        state = _read_state(run_id)
        if state is None or _watched(state):
            continue
        run = _Run.restore(run_id, state)
        run.scan()
        processes = tuple((process.pid, _title(process.pid)) for process in run.members)
        segments = tuple(sorted(name for name in run.segments if (SHM / name).exists()))
        found.append(Leftover(run_id, processes, segments, run.folder if run.folder and Path(run.folder).exists() else None))
    return found


def reap(run_id: str) -> None:
    """End what is left of a run and remove its shared memory and folder. Raises ValueError while its driver or its reaper is alive."""
    state = _read_state(run_id)
    if state is None:
        return
    if _watched(state):
        raise ValueError(f"run {run_id} is alive; end its driver, process {state['driver'][0]}, instead")
    _Run.restore(run_id, state).end(grace_seconds=0.0)


def main(argv: list[str] | None = None) -> int:
    """The reaper itself: watches until the run is over, then cleans up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parser = argparse.ArgumentParser(prog="python -m critic_r1_verl.supervise", description=main.__doc__)
    parser.add_argument("--run", required=True, metavar="ID")
    parser.add_argument("--driver", required=True, type=_key, metavar="PID:START")
    parser.add_argument("--tie-to", type=_key, metavar="PID:START")
    parser.add_argument("--grace-seconds", type=float, default=5.0)
    parser.add_argument("--hang-seconds", type=float, default=60.0)
    arguments = parser.parse_args(argv)
    run = _Run(arguments.run, arguments.driver, os.environ.get(TMP))
    out_of_memory_kills = _out_of_memory_kills()
    next_scan_seconds = 0.0
    while _alive(arguments.driver):
        if arguments.tie_to and not _alive(arguments.tie_to):
            _say(f"process {arguments.tie_to[0]}, which started this run, is gone: the run is ended")
            _send(arguments.driver, signal.SIGTERM)
            break
        if time.monotonic() >= next_scan_seconds:
            run.scan()
            lost = run.lost(arguments.hang_seconds)
            if lost:
                if _out_of_memory_kills() > out_of_memory_kills:
                    cause = "the kernel killed it for want of memory: use a smaller batch or shorter responses, or end other programs"
                else:
                    cause = "if memory ran out, `dmesg | grep -i 'killed process'` says so; otherwise its error is further up in this log"
                _say(f"{lost} died {arguments.hang_seconds:g} s ago and the run hangs, so it is ended now. Likely cause: {cause}")
                _send(arguments.driver, signal.SIGKILL)
                break
            next_scan_seconds = time.monotonic() + SCAN_SECONDS
        time.sleep(POLL_SECONDS)
    run.end(arguments.grace_seconds)
    return 0


class _Run:
    """The processes and shared-memory segments of one run, followed from scan to scan.

    members: live processes of the run without driver and reaper, oldest first. segments: name in /dev/shm -> inode.
    """

    def __init__(self, run_id: str, driver: tuple[int, int], folder: str | None) -> None:
        self.run_id, self.driver, self.folder = run_id, driver, folder
        self.members: list[Process] = []
        self.segments: dict[str, int] = {}
        self._owner: dict[tuple[int, int], str | None] = {driver: run_id}
        self._session_owner: dict[int, str | None] = {}
        self._reads = Counter({driver: 2})
        self._essential: dict[tuple[int, int], str] = {}
        self._lost_since: dict[tuple[int, int], float] = {}
        self._segments_before = set(_shm_files().items())
        self._segment_tries: Counter[tuple[str, int]] = Counter()
        # Only the reaper writes the state file, and only when something has changed.
        self._keeps_state = True
        self._state: tuple | None = None

    @classmethod
    def restore(cls, run_id: str, state: dict) -> "_Run":
        """The run as its reaper last wrote it down."""
        run = cls(run_id, tuple(state["driver"]), state["folder"])
        run._owner.update({(pid, start): run_id for pid, start in state["members"]})
        run.segments.update(state["segments"])
        run._keeps_state = False
        return run

    def scan(self, *, all_segments: bool = False) -> None:
        """Read /proc once; about 0.03 ms for each process of the machine, more only for new ones."""
        live = _processes()
        for process in sorted(live.values(), key=lambda process: process.key[::-1]):
            self._assign(process, live)
        keys = {process.key for process in live.values()}
        sessions = {process.session for process in live.values()}
        self._owner = {key: owner for key, owner in self._owner.items() if key in keys}
        self._reads = Counter({key: reads for key, reads in self._reads.items() if key in keys})
        self._session_owner = {session: owner for session, owner in self._session_owner.items() if session in sessions}
        excluded = (self.driver, live[os.getpid()].key)
        members = (process for process in live.values() if self._owner[process.key] == self.run_id and process.key not in excluded)
        self.members = sorted(members, key=lambda process: process.key[::-1])
        self._scan_essential(keys)
        self._scan_segments(all_segments)
        self._write_state()

    def lost(self, seconds: float) -> str | None:
        """The essential process that has been gone for so many seconds, as 'ray::WorkerDict (process 17)'; None if there is none."""
        for (pid, start), since_seconds in self._lost_since.items():
            if time.monotonic() - since_seconds >= seconds:
                return f"{self._essential[pid, start]} (process {pid})"
        return None

    def end(self, grace_seconds: float) -> None:
        """Wait so many seconds, then SIGTERM, then SIGKILL until no process is left; then remove segments, folder and state file.

        Processes that withstand SIGKILL for KILL_SECONDS are named on stderr, and nothing is removed.
        """
        # Signal 0 does nothing; SIGKILL goes to every process found, the others once to those that are there.
        for number, seconds in (
            (0, grace_seconds),
            (signal.SIGTERM, min(grace_seconds, TERMINATE_SECONDS)),
            (signal.SIGKILL, KILL_SECONDS),
        ):
            deadline = time.monotonic() + seconds
            left = self._left()
            for key in left:
                _send(key, number)
            while left and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS / 2)
                left = self._left()
                for key in left if number == signal.SIGKILL else ():
                    _send(key, number)
            if not left:
                break
        if left:
            _say(
                f"could not end the processes {', '.join(str(pid) for pid, _ in left)} of run {self.run_id}; `critic-r1 doctor` lists them"
            )
            return
        self._remove_segments()
        if self.folder:
            try:
                remove_folder(Path(self.folder), self.run_id)
            except (OSError, ValueError) as error:
                _say(str(error))
        _state_path(self.run_id).unlink(missing_ok=True)

    def _assign(self, process: Process, live: dict[int, Process]) -> None:
        """Find the run that a process belongs to; parents come before their children."""
        # Read twice: the first look may fall between fork and exec, when the environment is still the parent's.
        if self._reads[process.key] < 2:
            self._reads[process.key] += 1
            mark = _mark(process.pid)
            if mark:
                self._owner[process.key] = mark
        if self._owner.get(process.key) is None:
            parent = live.get(process.parent)
            inherited = self._owner.get(parent.key) if parent else None
            self._owner[process.key] = inherited or self._session_owner.get(process.session)
        if process.pid == process.session:
            self._session_owner[process.session] = self._owner[process.key]

    def _scan_essential(self, keys: set[tuple[int, int]]) -> None:
        for process in self.members:
            if process.key not in self._essential:
                name = _essential_name(process.pid)
                # A forked helper (a data loader's worker, a subprocess before its exec) shows its parent's title and may end at any time.
                if name and name != _essential_name(process.parent):
                    self._essential[process.key] = name
        for key in self._essential:
            if key not in keys:
                self._lost_since.setdefault(key, time.monotonic())

    def _scan_segments(self, everything: bool) -> None:
        files = _shm_files()
        # After three scans without a holder in this run, a new file is somebody else's.
        unknown = [item for item in files.items() if item not in self._segments_before and self.segments.get(item[0]) != item[1]]
        unknown = [item for item in unknown if everything or self._segment_tries[item] < 3]
        if unknown:
            self._segment_tries.update(unknown)
            held = set().union(*(_held_inodes(pid) for pid in [self.driver[0], *(process.pid for process in self.members)]))
            self.segments.update({name: inode for name, inode in unknown if inode in held})

    def _left(self) -> list[tuple[int, int]]:
        """The processes of the run that are alive, driver included; looks twice before it says that there is none."""
        for _ in range(2):
            self.scan(all_segments=True)
            left = [process.key for process in self.members] + ([self.driver] if _alive(self.driver) else [])
            if left:
                break
        return left

    def _remove_segments(self) -> None:
        files = _shm_files()
        mine = {name: inode for name, inode in self.segments.items() if files.get(name) == inode}
        held = set().union(*(_held_inodes(pid) for pid in _processes())) if mine else set()
        for name, inode in mine.items():
            if inode not in held:
                (SHM / name).unlink(missing_ok=True)

    def _write_state(self) -> None:
        state = ([process.key for process in self.members], dict(self.segments))
        if self._keeps_state and state != self._state:
            reaper = _process(os.getpid())
            assert reaper is not None
            _write_state(self.run_id, driver=self.driver, folder=self.folder, reaper=reaper.key, members=state[0], segments=state[1])
            self._state = state


def _processes() -> dict[int, Process]:
    found = (_process(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    return {process.pid: process for process in found if process}


def _process(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in brackets may itself contain spaces and brackets.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    return Process(pid, start=int(fields[19]), parent=int(fields[1]), session=int(fields[3]))


def _alive(key: tuple[int, int]) -> bool:
    process = _process(key[0])
    return process is not None and process.key == key


def _send(key: tuple[int, int], number: int) -> None:
    if _alive(key):
        with contextlib.suppress(ProcessLookupError):
            os.kill(key[0], number)


def _read(path: str) -> bytes:
    """A file below /proc; empty where the process is gone or another user's."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _mark(pid: int) -> str | None:
    match = re.search(rb"(?:^|\0)%b=([^\0]+)" % RUN.encode(), _read(f"/proc/{pid}/environ"))
    return match[1].decode(errors="replace") if match else None


def _title(pid: int) -> str:
    return _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def _essential_name(pid: int) -> str | None:
    match = ESSENTIAL.search(_read(f"/proc/{pid}/cmdline").split(b"\0")[0].decode(errors="replace"))
    return match[0] if match else None


def _shm_files() -> dict[str, int]:
    """This user's files in /dev/shm, name -> inode; folders (caches that users put there) and our state files are left out."""
    found = {}
    with os.scandir(SHM) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False) and not entry.name.startswith("critic_r1_run_"):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_uid == os.geteuid():
                        found[entry.name] = status.st_ino
    return found


def _held_inodes(pid: int) -> set[int]:
    """The files in /dev/shm that a process holds open or mapped for writing: segments are, data that it merely reads are not."""
    inodes = set()
    for line in _read(f"/proc/{pid}/maps").splitlines():
        if b"/dev/shm/" in line:
            _, access, _, _, inode, _ = line.split(None, 5)
            if b"w" in access and b"s" in access:
                inodes.add(int(inode))
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{descriptor}"
            with contextlib.suppress(FileNotFoundError):
                # The mode of the link itself says whether the descriptor can write.
                if os.readlink(path).startswith("/dev/shm/") and os.lstat(path).st_mode & 0o200:
                    inodes.add(os.stat(path).st_ino)
    return inodes


def _state_path(run_id: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9]*", run_id):
        raise ValueError(f"run id {run_id!r}: only letters and digits are allowed")
    return SHM / f"critic_r1_run_{os.geteuid()}_{run_id}.json"


def _write_state(
    run_id: str,
    *,
    driver: tuple[int, int],
    folder: str | None,
    reaper: tuple[int, int] | None = None,
    members: Sequence[tuple[int, int]] = (),
    segments: dict[str, int] | None = None,
) -> None:
    state = {"driver": driver, "reaper": reaper, "folder": folder, "members": members, "segments": segments or {}}
    path = _state_path(run_id)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(state))
    os.replace(part, path)


def _read_state(run_id: str) -> dict | None:
    """None where there is no state file, or one that another user made: /dev/shm is open to all."""
    try:
        with _state_path(run_id).open() as file:
            return json.load(file) if os.fstat(file.fileno()).st_uid == os.geteuid() else None
    except FileNotFoundError:
        return None


def _watched(state: dict) -> bool:
    return any(key is not None and _alive(tuple(key)) for key in (state["driver"], state["reaper"]))


def _folder_run(folder: Path) -> str:
    try:
        return (folder / FOLDER_MARKER).read_text().strip()
    except FileNotFoundError:
        raise ValueError(f"{folder}: no file {FOLDER_MARKER} in it; {TMP} may only name a folder made by new_folder()") from None


def _key(text: str) -> tuple[int, int]:
    pid, _, start = text.partition(":")
    return int(pid), int(start)


def _out_of_memory_kills() -> int:
    match = re.search(rb"^oom_kill (\d+)", _read("/proc/vmstat"), re.MULTILINE)
    return int(match[1]) if match else 0


def _say(text: str) -> None:
    # A closed terminal or pipe must not keep the reaper from its work.
    with contextlib.suppress(OSError):
        print(f"critic-r1: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
