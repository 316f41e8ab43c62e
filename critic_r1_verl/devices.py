# SPDX-License-Identifier: Apache-2.0
"""The GPUs, CPUs and memory of this machine, or of a container. torch is imported only in a separate process."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path

from critic_r1_verl import cpu

CGROUP = Path("/sys/fs/cgroup")


@cache
def gpu_count() -> int:
    """The number of GPUs that torch finds in a separate process. 0 without starting one if the machine has no GPU driver."""
    driver_files = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
    if not (shutil.which("nvidia-smi") or any(Path(file).exists() for file in driver_files)):
        return 0
    process = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"], capture_output=True, text=True, check=False
    )
    last_line = process.stdout.strip().rsplit("\n", 1)[-1]
    return int(last_line) if last_line.isdecimal() else 0


def visible_devices(count: int) -> list[str]:
    """The ids of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES. Empty on the CPU; ValueError for fewer than count."""
    if cpu.requested():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # CUDA uses none of the devices from a -1 on.
    found = list(takewhile(lambda name: name != "-1", visible.split(","))) if visible else [str(number) for number in range(gpu_count())]
    if len(found) < count:
        raise ValueError(
            f"{count} GPUs are requested, but {len(found)} are available: lower --data-parallel-size or --tensor-parallel-size"
        )
    return found


def cpus() -> int:
    """The CPUs that Ray counts here: those of the machine, or fewer in a container that is given less."""
    there = os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (FileNotFoundError, ValueError):
        return there
    return there if quota == "max" else min(there, max(1, int(quota) // int(period)))


def memory() -> float:
    """The bytes of memory of this machine, or fewer in a container that is given less."""
    import psutil

    there = psutil.virtual_memory().total
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
    except FileNotFoundError:
        return there
    return there if limit == "max" else min(there, int(limit))


def available_memory() -> float:
    """The bytes that this process and its children may still allocate, within the machine's memory and a container's limit."""
    import psutil

    available = psutil.virtual_memory().available
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = re.search(r"^inactive_file (\d+)", (CGROUP / "memory.stat").read_text(), re.MULTILINE)
    except FileNotFoundError:
        return available
    return available if limit == "max" else min(available, int(limit) - int(used) + (int(cached[1]) if cached else 0))
