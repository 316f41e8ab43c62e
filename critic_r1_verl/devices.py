# SPDX-License-Identifier: Apache-2.0
"""The devices of this machine, without importing torch."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from critic_r1_verl import cpu


@cache
def gpu_count() -> int:
    """The number of GPUs that torch finds here, asked in a separate process; 0 at once on a machine without a GPU driver."""
    traces = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
    if not (shutil.which("nvidia-smi") or any(Path(trace).exists() for trace in traces)):
        return 0
    asked = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"], capture_output=True, text=True, check=False
    )
    last = asked.stdout.strip().rsplit("\n", 1)[-1]
    return int(last) if last.isdecimal() else 0


def visible_devices(count: int) -> list[str]:
    """The GPUs that this process may use, by their numbers; none when it runs on the CPU. ValueError if they are fewer than count."""
    if cpu.requested():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = visible.split(",") if visible else [str(number) for number in range(gpu_count())]
    if len(found) < count:
        raise ValueError(f"{count} GPUs are asked for, {len(found)} are there: lower --data-parallel-size or --tensor-parallel-size")
    return found
