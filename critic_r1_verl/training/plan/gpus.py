# SPDX-License-Identifier: Apache-2.0
"""GPUs by the name that the driver gives them: memory, arithmetic in bfloat16 without sparsity, and memory bandwidth."""

import re
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """memory in GiB, flops and bandwidth (bytes) a second: the makers' data sheets."""

    name: str
    memory: float
    flops: float
    bandwidth: float


# The first whose name is a part of the driver's. flops are those of verl 0.9.1 (utils/flops_counter.py) where it knows the GPU.
GPUS = (
    Gpu("H100", 80, 989e12, 3.35e12),
    Gpu("H800", 80, 989e12, 3.35e12),
    Gpu("H200", 141, 989e12, 4.8e12),
    Gpu("H20", 96, 148e12, 4.0e12),
    Gpu("B200", 180, 2250e12, 8.0e12),
    Gpu("A100", 80, 312e12, 2.0e12),
    Gpu("A800", 80, 312e12, 2.0e12),
    Gpu("L40S", 48, 362.05e12, 0.864e12),
    Gpu("L20", 48, 119.5e12, 0.864e12),
    Gpu("RTX 4090", 24, 165.2e12, 1.008e12),
    Gpu("RTX 5090", 32, 209.5e12, 1.792e12),
)


def named(name: str) -> Gpu:
    """The GPU of that name. ValueError lists the names that are known."""
    found = next((gpu for gpu in GPUS if gpu.name.lower() in name.lower()), None)
    if found is None:
        raise ValueError(f"--gpu {name}: not known; choose one of {', '.join(gpu.name for gpu in GPUS)}")
    return found


def choose(asked: str | None, overrides: list[str]) -> tuple[Gpu, str]:
    """The GPU to plan for, and whence: the one asked for, this machine's, or one with the memory in the hardware file's name."""
    if asked:
        return named(asked), "asked for"
    if shutil.which("nvidia-smi"):
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"], capture_output=True, text=True, check=False
        ).stdout
        for name, mebibytes in re.findall(r"^(.+), (\d+)$", listed, re.MULTILINE):
            for gpu in GPUS:
                if gpu.name.lower() in name.lower():
                    return Gpu(gpu.name, int(mebibytes) / 1024, gpu.flops, gpu.bandwidth), "found here"
    hardware = next((re.search(r"x(\d+)g$", word) for word in overrides if "recipe/hardware=" in word), None)
    memory = float(hardware[1]) if hardware else 80.0
    return next((gpu for gpu in GPUS if gpu.memory == memory), GPUS[0]), "assumed; --gpu names another"
