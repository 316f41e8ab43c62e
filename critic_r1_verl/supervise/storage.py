# SPDX-License-Identifier: Apache-2.0
"""What a run may leave besides processes: segments of shared memory in /dev/shm and a temporary folder."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import psutil

# It is local to the machine and empty after a reboot, so a process id and a start time in a state file identify one process.
SHM = Path("/dev/shm")
STATE_PREFIX = "critic_r1_run_"
FOLDER_MARKER = ".critic_r1_run"


def shm_files() -> dict[str, int]:
    """The files of this user in /dev/shm as {name: inode}, without folders (caches of users) and without state files."""
    found = {}
    with os.scandir(SHM) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False) and STATE_PREFIX not in entry.name:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_uid == os.geteuid():
                        found[entry.name] = status.st_ino
    return found


def held_inodes(process: psutil.Process) -> set[int]:
    """The inodes of the files in /dev/shm that a process has open or mapped for writing. Segments are; data that it only reads is not."""
    inodes = set()
    # psutil.Process.memory_maps() gives no inodes, and it measures every mapping, which delays a large process.
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/maps").read_bytes().splitlines():
            if b"/dev/shm/" in line:
                _, access, _, _, inode, _ = line.split(None, 5)
                if b"w" in access and b"s" in access:
                    inodes.add(int(inode))
    with contextlib.suppress(psutil.Error):
        for file in process.open_files():
            if file.path.startswith(f"{SHM}/") and file.mode != "r":
                with contextlib.suppress(FileNotFoundError):
                    inodes.add(os.stat(file.path).st_ino)
    return inodes


def new_folder(run_id: str) -> Path:
    """Make a temporary folder for a run. Its path is short, because the paths of Ray's sockets, which lie in it, have a limited length."""
    folder = Path(tempfile.mkdtemp(prefix="critic_r1_"))
    (folder / FOLDER_MARKER).write_text(run_id + "\n")
    return folder


def remove_folder(folder: Path, run_id: str) -> None:
    """Delete a folder of new_folder() if it still exists. ValueError for a folder without the marker of run_id."""
    if not folder.exists() and not folder.is_symlink():
        return
    marker = folder / FOLDER_MARKER
    if folder.is_symlink() or not marker.is_file() or marker.read_text().strip() != run_id:
        raise ValueError(f"{folder}: not the temporary folder of run {run_id}, so it is not deleted")
    shutil.rmtree(folder)
