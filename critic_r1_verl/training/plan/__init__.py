# SPDX-License-Identifier: Apache-2.0
"""What a run will take before it starts: steps, tokens, memory by part, queue, CPUs, disk and hours.

Computed from the composed configuration, the base's config.json (sizes.py) and the lengths of the data (job.py): memory.py and timing.py
are pure functions of these, for the doctor and others too. After a run's first step its own measurements replace the assumptions.
"""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from critic_r1_verl import devices
from critic_r1_verl.training.compose import compose
from critic_r1_verl.training.plan import checks, gpus, job, measured, memory, sizes, timing
from critic_r1_verl.training.plan.memory import checkpoint_bytes, disk_bytes, host_bytes, ray_cpus

__all__ = ["Plan", "checkpoint_bytes", "disk_bytes", "host_bytes", "make", "ray_cpus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan in plain numbers: bytes, seconds, tokens. None where something is not known, as time on a CPU before a first step.

    gpu_bytes: by phase and part. hours: (least, expected, most). sources: where lengths and machine come from. warnings: what does not fit.
    """

    base: str
    gpu: str
    gpus: int
    parameters: int
    trained_parameters: int
    rows: int | None
    steps: int | None
    rollouts_a_step: int
    tokens_a_step: float
    micro_batch_tokens: tuple[float, float]
    gpu_bytes: dict[str, dict[str, float]]
    gpu_has_bytes: float
    kv_bytes_a_token: int
    kv_tokens: int | None
    host_bytes: dict[str, float]
    queue_bytes_a_step: float
    ray_cpus: int
    checkpoint_bytes: float
    disk_bytes: float | None
    step_seconds: dict[str, float] | None
    mfu: float | None
    hours: tuple[float, float, float] | None
    measured: measured.Measured | None
    sources: tuple[str, ...]
    warnings: tuple[str, ...]


def make(recipe: str, overrides: list[str], *, gpu: str | None = None, run: str | None = None) -> Plan:
    """The plan of `critic-r1 train --recipe RECIPE OVERRIDES...`.

    gpu: a name of gpus.GPUS instead of this machine's. run: the folder of a run to take measurements from, by default the recipe's own.
    ValueError for a wrong recipe, base, GPU or run.
    """
    config = compose(recipe, overrides)
    model = sizes.of_base(str(config.actor_rollout_ref.model.path))
    device, whence = gpus.choose(gpu, overrides)
    return of(config, model, job.lengths(config, model), device, whence, measured.find(run, config))


def of(config: Any, model: sizes.Sizes, lengths: job.Lengths, gpu: gpus.Gpu, whence: str, steps_file: Path | None) -> Plan:
    """The same from what has been read; whence says where the GPU comes from."""
    found = measured.read(steps_file) if steps_file else None
    if found:
        lengths = measured.correct(lengths, found)
    on_cpu = config.trainer.device == "cpu"
    work, steps = job.read(config, model, lengths), job.steps(config, lengths.rows)
    gpu_bytes, kv_tokens = gpu.memory * memory.GIB, None
    phases: dict[str, dict[str, float]] = {}
    seconds, hours = None, None
    if not on_cpu:
        kv_tokens = memory.kv_tokens(work, model, gpu_bytes)
        phases = memory.gpu_phases(work, model, lengths, gpu_bytes)
        if kv_tokens >= work.model_length:
            seconds = timing.step_seconds(work, model, lengths, gpu)
    if found:
        seconds = found.phases | {"other": max(0.0, found.seconds - sum(found.phases.values()))}
        if found.gpu_bytes and phases:
            phases["update"] = {"measured by the run": found.gpu_bytes, "context": memory.CONTEXT + memory.SLEEPING_VLLM}
    host = memory.host_bytes(config, model, lengths)
    if found and found.host_bytes:
        host = {"in use on the first node, as measured": found.host_bytes}
    if steps and seconds:
        hours = _hours(config, model, lengths, gpu, steps, found)
    disk = memory.disk_bytes(config, model, steps) if steps else None
    warnings = [
        *(() if on_cpu else checks.gpu(phases, gpu_bytes)),
        *(() if kv_tokens is None else checks.cache(work, kv_tokens)),
        *(() if on_cpu else checks.micro_batches(config, work)),
        *checks.validation(config, job.num_val_rows(config) * lengths.pixels * memory.PIXEL_BYTES, memory.queue_bytes(work, lengths)),
        *_machine(config, work, host, disk),
    ]
    mfu = found.mfu if found else timing.mfu(work, model, lengths, gpu, seconds["update_actor"]) if seconds else 0.0
    name = "no GPU" if on_cpu else f"{gpu.name} {gpu.memory:.0f} GiB ({whence})"
    return Plan(
        base=str(config.actor_rollout_ref.model.path),
        gpu=name,
        gpus=work.gpus,
        parameters=model.parameters,
        trained_parameters=work.trained,
        rows=lengths.rows,
        steps=steps,
        rollouts_a_step=work.rollouts,
        tokens_a_step=work.rollouts * lengths.tokens,
        micro_batch_tokens=work.update_micro,
        gpu_bytes=phases,
        gpu_has_bytes=0 if on_cpu else gpu_bytes,
        kv_bytes_a_token=model.kv_bytes,
        kv_tokens=kv_tokens,
        host_bytes=host,
        queue_bytes_a_step=memory.queue_bytes(work, lengths),
        ray_cpus=memory.ray_cpus(config),
        checkpoint_bytes=memory.checkpoint_bytes(config, model),
        disk_bytes=disk,
        step_seconds=seconds,
        mfu=mfu or None,
        hours=hours,
        measured=found,
        sources=(*lengths.sources, *([] if on_cpu else [f"GPU {name}"])),
        warnings=tuple(str(warning) for warning in warnings),
    )


def _hours(
    config: Any, model: sizes.Sizes, lengths: job.Lengths, gpu: gpus.Gpu, steps: int, found: measured.Measured | None
) -> tuple[float, float, float]:
    """Least, expected and most hours; around a measurement a tenth, around an estimate also what is not known of the responses."""
    answers, saving = job.num_val_rows(config) * config.actor_rollout_ref.rollout.val_kwargs.n, timing.save_seconds(config, model)
    if found:
        testing = found.phases["gen"] * answers / (config.data.train_batch_size * config.actor_rollout_ref.rollout.n)
        testing, saving = found.test_seconds or testing, found.save_seconds or saving
        expected = timing.run_hours(config, steps, found.seconds, testing, saving)
        return 0.9 * expected, expected, 1.1 * expected

    def at(share: float) -> float:
        # The share of data.max_response_length that a response takes.
        told = replace(lengths, response=share * config.data.max_response_length)
        work = job.read(config, model, told)
        testing = timing.generation_seconds(work, model, told, gpu, answers) if answers else 0.0
        return timing.run_hours(config, steps, sum(timing.step_seconds(work, model, told, gpu).values()), testing, saving)

    return timing.FASTEST * at(job.RESPONSE_LOW), at(job.RESPONSE_SHARE), timing.SLOWEST * at(job.RESPONSE_HIGH)


def _machine(config: Any, work: job.Job, host: dict[str, float], disk: float | None) -> list[checks.Lack]:
    """What this machine has too little of; nothing of a Ray cluster that is already there is known from here."""
    if os.environ.get("RAY_ADDRESS") or config.ray_kwargs.ray_init.get("address"):
        return []
    cpus = config.ray_kwargs.ray_init.num_cpus or devices.cpus()
    folder = Path(config.trainer.default_local_dir).absolute()
    free = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free
    fewer = (
        "use fewer transfer_queue.backend.SimpleStorage.num_data_storage_units, or a machine with more CPUs: verl waits for them for ever"
    )
    rotate = "keep fewer checkpoints by trainer.max_actor_ckpt_to_keep, or name another disk by trainer.default_local_dir"
    return [
        *checks.enough(
            "CPUs that verl reserves from Ray", memory.ray_cpus(config), cpus * config.trainer.nnodes, fewer, unit="CPUs", size=1
        ),
        *checks.host(host, devices.memory(), work),
        *checks.enough(f"disk of {config.trainer.default_local_dir}", disk or 0, free, rotate),
    ]
