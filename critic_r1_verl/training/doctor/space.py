# SPDX-License-Identifier: Apache-2.0
"""Checks of what a run takes of the machine: GPU memory, memory, shared memory, disk over the whole run, and CPUs.

On GPUs each figure is what the run takes at least, from the size of the base and from the settings. Activations, images on their way and
fragments come on top.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from critic_r1_verl.training import shape
from critic_r1_verl.training.doctor.base import base_folder
from critic_r1_verl.training.doctor.cluster import cluster_address
from critic_r1_verl.training.doctor.finding import Case, Finding, Level
from critic_r1_verl.training.plan import job, memory

GIB = 2**30
CPU_MEMORY_GIB, CPU_SHM_GIB, CPU_DISK_GIB = 6, 2, 5
# What Ray, vLLM and the logs write beside the checkpoints.
GPU_DISK_GIB = 20
# NCCL and Ray's object store use it; a container has 64 MB by default.
GPU_SHM_GIB = 8
# A process that has imported verl, and a worker that also holds a CUDA context.
PROCESS_GIB, RANK_GIB = 0.6, 3
SHM = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")
BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}


def check_space(case: Case) -> Iterator[Finding]:
    """Whether there is enough disk for all checkpoints of the run, and enough memory and shared memory for its start."""
    config, base = case.config, base_shape(case.config)
    on_cpu = config.trainer.device == "cpu"
    folder = Path(config.trainer.default_local_dir).absolute()
    disk = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free
    size, on_disk = _checkpoints(config, base)
    checkpoints = f" for {on_disk / size:.0f} checkpoint(s) of {size / GIB:.1f} GiB" if size > GIB else ""
    needs: list[tuple[Level, str, float, float, str]] = [
        (
            "fatal" if on_cpu or disk < size else "warning",
            f"free on the disk of {config.trainer.default_local_dir}",
            disk,
            (CPU_DISK_GIB if on_cpu else GPU_DISK_GIB) + on_disk / GIB,
            "free space, name another disk by trainer.default_local_dir, or keep fewer checkpoints by trainer.max_actor_ckpt_to_keep",
        )
    ]
    shm = shutil.disk_usage(SHM).free if SHM.is_dir() else 0
    more_shm = "give the container more shared memory (docker run --shm-size=16g, or --ipc=host), or remove what lies in /dev/shm"
    if on_cpu:
        more = "end other programs; `critic-r1 doctor --clean` ends leftovers"
        needs += [
            ("fatal", "of memory available", available_memory(), CPU_MEMORY_GIB, more),
            ("fatal", "free in /dev/shm", shm, CPU_SHM_GIB, more_shm),
        ]
    elif not cluster_address(config):
        more = "take more nodes or another base, add +recipe/method=lora, or lower actor_rollout_ref.rollout.agent.num_workers"
        needs += [
            ("fatal", "of memory available", available_memory(), host_bytes(config, base) / GIB, more),
            ("warning", "free in /dev/shm", shm, GPU_SHM_GIB, more_shm),
        ]
    for level, what, free, needed_gib, remedy in needs:
        enough = free >= needed_gib * GIB
        reason = checkpoints if "disk" in what else ""
        text = f"{free / GIB:.1f} GiB {what}"
        yield Finding("ok", text) if enough else Finding(level, f"{text}, {needed_gib:.0f} GiB are needed{reason}", remedy)


def check_gpu_memory(case: Case) -> Iterator[Finding]:
    """Whether a GPU holds the weights beside the cache of the rollout, and all states beside the logits of an update."""
    config, base = case.config, base_shape(case.config)
    card = gpu_memory()
    if config.trainer.device == "cpu" or not card or base.parameters is None or cluster_address(config):
        return
    rollout, sound = config.actor_rollout_ref.rollout, True
    share = rollout.gpu_memory_utilization * card
    needed = base.parameters * BYTES.get(str(rollout.dtype), 2) / rollout.tensor_model_parallel_size
    cache_bytes = base.cache_bytes(rollout.max_model_len or 0) or 0
    needed += cache_bytes / min(rollout.tensor_model_parallel_size, base.key_value_heads or 1)
    smaller = (
        "take a smaller base (+recipe/base=qwen2_5_vl_3b), more GPUs, or a larger actor_rollout_ref.rollout.tensor_model_parallel_size"
    )
    if needed > share:
        sound = False
        yield Finding(
            "fatal",
            f"weights and the cache of one longest row take {needed / GIB:.1f} GiB, and vLLM is given "
            f"{rollout.gpu_memory_utilization} of {card / GIB:.0f} GiB",
            f"{smaller}; actor_rollout_ref.rollout.gpu_memory_utilization can rise to about 0.85",
        )
    update = update_bytes(config, base)
    if update > card:
        sound = False
        yield Finding(
            "fatal",
            f"an update holds {update / GIB:.0f} GiB on each GPU at least (weights, gradients, optimiser states, logits), "
            f"which has {card / GIB:.0f} GiB",
            "train an adapter by +recipe/method=lora, take a smaller base or more GPUs, or leave the states on the host by "
            "actor_rollout_ref.actor.fsdp_config.offload_policy=true, which is slow",
        )
    if sound:
        what = f"rollout {needed / GIB:.1f} of {share / GIB:.1f} GiB, update {update / GIB:.1f} of {card / GIB:.0f} GiB, at least"
        yield Finding("ok", f"a GPU's memory holds the base: {what}")


def check_cpus(case: Case) -> Iterator[Finding]:
    """Whether Ray has the CPUs that verl reserves; with fewer, the run waits for them for ever."""
    if cluster_address(case.config):
        return
    there = case.config.ray_kwargs.ray_init.get("num_cpus") or cpus()
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


def base_shape(config: Any) -> shape.Shape:
    """The shape of the base in its folder or in the hub's cache, else what its name says."""
    path = str(config.actor_rollout_ref.model.path)
    folder = base_folder(path)
    try:
        return shape.read(folder) if folder else shape.by_name(path)
    except (ValueError, OSError):
        # check_base reports what is wrong with the folder.
        return shape.by_name(path)


class _Weights(NamedTuple):
    """plan.job.Weights: adapters, whose layers are not known here, are small and count as nothing."""

    parameters: int
    linears: Mapping[str, int] = MappingProxyType({})


def _checkpoints(config: Any, base: shape.Shape) -> tuple[float, float]:
    """Bytes of one checkpoint, and of all that lie on the disk at once; 0 where the base is not known."""
    if base.parameters is None:
        return 0.0, 0.0
    files = config.data.train_files
    local = [Path(file) for file in ([files] if isinstance(files, str) else files or ())]
    # check_data reports a file that is missing.
    rows = sum(job.num_rows(file) for file in local if file.is_file()) if local else None
    steps = job.steps(config, rows)
    weights = _Weights(base.parameters)
    return memory.checkpoint_bytes(config, weights), memory.disk_bytes(config, weights, steps or 1)


def host_bytes(config: Any, base: shape.Shape) -> float:
    """Bytes of a node's memory at least: what is offloaded to it, the reference, and the processes."""
    trainer, model, actor = config.trainer, config.actor_rollout_ref.model, config.actor_rollout_ref.actor
    parameters, width = base.parameters or 0, BYTES.get(str(actor.fsdp_config.model_dtype), 4)
    states = 0.0
    if actor.fsdp_config.param_offload or actor.fsdp_config.offload_policy:
        states += parameters * width
    if (actor.fsdp_config.optimizer_offload or actor.fsdp_config.offload_policy) and not model.lora_rank:
        states += 2 * parameters * width
    if (actor.use_kl_loss or config.algorithm.use_kl_in_reward) and not model.lora_rank:
        # verl keeps a reference on the host whatever the settings say.
        states += parameters * BYTES.get(str(config.actor_rollout_ref.ref.fsdp_config.model_dtype), 4)
    queue = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    others = config.actor_rollout_ref.rollout.agent.num_workers + config.reward.num_workers + queue
    return (states + others * PROCESS_GIB * GIB) / trainer.nnodes + trainer.n_gpus_per_node * RANK_GIB * GIB


def update_bytes(config: Any, base: shape.Shape) -> float:
    """Bytes of one GPU's memory in an update at least: its share of the states, and logits with their gradient in half precision."""
    actor, trainer = config.actor_rollout_ref.actor, config.trainer
    parameters, width = base.parameters or 0, BYTES.get(str(actor.fsdp_config.model_dtype), 4)
    trained = 0 if config.actor_rollout_ref.model.lora_rank else 3
    states = 0 if actor.fsdp_config.offload_policy else parameters * width * (1 + trained) / (trainer.nnodes * trainer.n_gpus_per_node)
    longest = config.data.max_prompt_length + config.data.max_response_length
    tokens = actor.ppo_max_token_len_per_gpu if actor.use_dynamic_bsz else (actor.ppo_micro_batch_size_per_gpu or 1) * longest
    return states + 2 * 2 * tokens * (base.vocabulary or 0)


@cache
def gpu_memory() -> int:
    """Bytes of the memory of the smallest GPU here; 0 if nvidia-smi does not tell."""
    if not shutil.which("nvidia-smi"):
        return 0
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return min((int(line) * 2**20 for line in told.split() if line.isdecimal()), default=0)


def cpus() -> int:
    """The CPUs that Ray counts here: those of the machine, or fewer in a container that is given less."""
    there = os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (FileNotFoundError, ValueError):
        return there
    return there if quota == "max" else min(there, max(1, int(quota) // int(period)))


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
