# SPDX-License-Identifier: Apache-2.0
"""Checks of what a run takes of the machine: GPU memory, memory, shared memory, disk over the whole run, and CPUs.

On GPUs each figure is the planner's (critic-r1 plan). It is an estimate, so what exceeds the machine by little is a warning. On a CPU,
where only small bases train, the figures are fixed ones, and nothing heavy is imported.
"""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from critic_r1_verl import devices
from critic_r1_verl.training import shape
from critic_r1_verl.training.doctor.base import base_folder
from critic_r1_verl.training.doctor.cluster import cluster_address
from critic_r1_verl.training.doctor.finding import Case, Finding, Level
from critic_r1_verl.training.plan import checks, job, memory, sizes

GIB = 2**30
CPU_MEMORY_GIB, CPU_SHM_GIB, CPU_DISK_GIB = 6, 2, 5
# What Ray, vLLM and the logs write beside the checkpoints.
GPU_DISK_GIB = 20
# NCCL and Ray's object store use it; a container has 64 MB by default.
GPU_SHM_GIB = 8
SHM = Path("/dev/shm")


def check_space(case: Case) -> Iterator[Finding]:
    """Whether there is enough disk for all checkpoints of the run, and enough memory and shared memory for its start."""
    config = case.config
    on_cpu = config.trainer.device == "cpu"
    folder = Path(config.trainer.default_local_dir).absolute()
    disk = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free
    size, on_disk = _checkpoints(config)
    # A resumed run removes its old checkpoints as it writes new ones.
    there = sum(file.stat().st_size for file in folder.glob("global_step_*/actor/*.pt"))
    checkpoints = f" for {on_disk / size:.0f} checkpoint(s) of {size / GIB:.1f} GiB" if size > GIB else ""
    needs: list[tuple[Level, str, float, float, str]] = [
        (
            "fatal" if on_cpu or disk < size else "warning",
            f"free on the disk of {config.trainer.default_local_dir}",
            disk,
            (CPU_DISK_GIB if on_cpu else GPU_DISK_GIB) + max(0, on_disk - there) / GIB,
            "free space, name another disk by trainer.default_local_dir, or keep fewer checkpoints by trainer.max_actor_ckpt_to_keep",
        )
    ]
    shm = shutil.disk_usage(SHM).free if SHM.is_dir() else 0
    more_shm = "give the container more shared memory (docker run --shm-size=16g, or --ipc=host), or remove what lies in /dev/shm"
    if on_cpu:
        more = "end other programs; `critic-r1 doctor --clean` ends leftovers"
        needs += [
            ("fatal", "of memory available", devices.available_memory(), CPU_MEMORY_GIB, more),
            ("fatal", "free in /dev/shm", shm, CPU_SHM_GIB, more_shm),
        ]
    elif not cluster_address(config):
        needs.append(("warning", "free in /dev/shm", shm, GPU_SHM_GIB, more_shm))
    for level, what, free, needed_gib, remedy in needs:
        enough = free >= needed_gib * GIB
        reason = checkpoints if "disk" in what else ""
        text = f"{free / GIB:.1f} GiB {what}"
        yield Finding("ok", text) if enough else Finding(level, f"{text}, {needed_gib:.0f} GiB are needed{reason}", remedy)


def check_memory(case: Case) -> Iterator[Finding]:
    """Whether GPUs and host hold what the planner says of each phase of a step; nothing where there is no GPU to start on."""
    config = case.config
    if config.trainer.device == "cpu" or not devices.gpu_count() or cluster_address(config) or not (planned := _planned(config)):
        return
    model, lengths = planned
    work, card, there = job.read(config, model, lengths), gpu_memory(), devices.available_memory()
    host = memory.host_bytes(config, model, lengths)
    lacks = list(checks.host(host, there, work))
    phases: dict[str, dict[str, float]] = {}
    if card:
        phases = memory.gpu_phases(work, model, lengths, card)
        lacks += [*checks.gpu(phases, card), *checks.cache(work, memory.kv_tokens(work, model, card))]
    for lack in lacks:
        yield Finding("fatal" if lack.certain else "warning", f"{lack.what} (critic-r1 plan shows each part)", lack.remedy)
    if not lacks:
        parts = [
            f"{phase} {sum(max(0.0, number) for number in part.values()) / GIB:.0f} of {card / GIB:.0f} GiB"
            for phase, part in phases.items()
        ]
        yield Finding(
            "ok",
            f"planned for each GPU: {', '.join(parts) or 'unknown'}; for the host {sum(host.values()) / GIB:.0f} of {there / GIB:.0f} GiB",
        )


def check_cpus(case: Case) -> Iterator[Finding]:
    """Whether Ray has the CPUs that verl reserves; with fewer, the run waits for them for ever."""
    if cluster_address(case.config):
        return
    there = case.config.ray_kwargs.ray_init.get("num_cpus") or devices.cpus()
    # The nodes are assumed to be alike.
    needed = -(-memory.ray_cpus(case.config) // case.config.trainer.nnodes)
    if needed <= there:
        yield Finding("ok", f"verl reserves {needed} of Ray's {there} CPUs")
    else:
        yield Finding(
            "fatal",
            f"verl reserves {needed} CPUs in Ray, which has {there}: the run would wait for them for ever",
            "lower transfer_queue.backend.SimpleStorage.num_data_storage_units (one is enough on a small machine), or let Ray count more "
            f"than there are by ray_kwargs.ray_init.num_cpus={needed}",
        )


@cache
def base_sizes(path: str) -> sizes.Sizes | None:
    """The base in the planner's numbers; None where they cannot be had, of which check_base says why. This imports torch, in seconds."""
    try:
        return sizes.of_base(path)
    except ValueError:
        return None


def _planned(config: Any) -> tuple[sizes.Sizes, job.Lengths] | None:
    model = base_sizes(str(config.actor_rollout_ref.model.path))
    try:
        return (model, job.lengths(config, model)) if model else None
    except (ValueError, OSError):
        # check_data reports what is wrong with the data.
        return None


class _Weights(NamedTuple):
    """job.Weights of a base on the CPU, from the heads of its weight files; adapters count as nothing."""

    parameters: int
    linears: Mapping[str, int] = MappingProxyType({})


def _checkpoints(config: Any) -> tuple[float, float]:
    """Bytes of one checkpoint, and of all that lie on the disk at once; 0 where the base is not known."""
    path = str(config.actor_rollout_ref.model.path)
    weights: job.Weights | None = None
    if config.trainer.device != "cpu" and (devices.gpu_count() or cluster_address(config)):
        weights = base_sizes(path)
    elif folder := base_folder(path):
        try:
            weights = _Weights(shape.read(folder).parameters or 0)
        except (ValueError, OSError):
            # check_base reports what is wrong with the folder.
            return 0.0, 0.0
    if weights is None:
        return 0.0, 0.0
    try:
        rows = job.num_rows(config)
    except ValueError:
        # check_data reports what is wrong with a file, or which rows it lacks.
        rows = None
    steps = job.steps(config, rows)
    return memory.checkpoint_bytes(config, weights), memory.disk_bytes(config, weights, steps or 1)


@cache
def gpu_memory() -> int:
    """Bytes of the memory of the smallest GPU here; 0 if nvidia-smi does not tell."""
    if not shutil.which("nvidia-smi"):
        return 0
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return min((int(line) * 2**20 for line in told.split() if line.isdecimal()), default=0)
