# SPDX-License-Identifier: Apache-2.0
"""Loaded by verl in every process that imports it (entry point verl.plugins). Off the CPU it only registers the experiment resolver.

verl logs a plugin's exceptions at DEBUG and goes on, so that a failure here would show up much later and elsewhere: whatever goes wrong in
the CPU part ends the process with one message instead.
"""

import os
import sys

from critic_r1_verl import cpu
from critic_r1_verl.training import experiment

MAIN_PPO = "verl.trainer.main_ppo"

# Set in the driver before Ray starts, so that all of its processes inherit them; what the user has set stands.
ENVIRONMENT = {
    # Trainer and rollout take turns on the cores, and a model this small gains nothing from more; verl's other processes hardly compute.
    "OMP_NUM_THREADS": "2",
    "TOKENIZERS_PARALLELISM": "false",
    # GiB; a model of this size needs little, and vLLM's default of 4 may be half of the machine.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # The model runs eagerly anyway; vLLM's sampler alone would be compiled, for half a minute.
    "TORCHDYNAMO_DISABLE": "1",
    # Tells vllm_plugin that this vLLM belongs to a training, whose weights change.
    cpu.WEIGHT_SYNC: "1",
}


def _patch_distributed() -> None:
    """verl asks for the backend "cpu:gloo,<device>:<backend>"; with device "cpu" torch refuses the doubled entry."""
    import torch.distributed

    init = torch.distributed.init_process_group

    def init_process_group(backend: str | None = None, *args, **kwargs):
        return init("cpu:gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)

    torch.distributed.init_process_group = init_process_group


def _patch_vllm_version() -> None:
    """verl looks for a distribution "vllm"; the CPU build is called vllm-cpu, and vLLM itself expects a version that ends in "+cpu"."""
    import importlib.metadata

    version = importlib.metadata.version

    def version_with_vllm_cpu(distribution_name: str) -> str:
        try:
            return version(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return version("vllm-cpu") + "+cpu"

    importlib.metadata.version = version_with_vllm_cpu


def _patch_engine(module) -> None:
    """verl registers its FSDP engines for cuda and npu only, and pins the memory that a reference model rests in, which needs a GPU."""
    from verl.workers.engine.base import EngineRegistry

    offload_policy = module.CPUOffloadPolicy
    module.CPUOffloadPolicy = lambda **_: offload_policy(pin_memory=False)
    for model_type, engine in (("language_model", module.FSDPEngineWithLMHead), ("value_model", module.FSDPEngineWithValueHead)):
        EngineRegistry.register(model_type=model_type, backend=["fsdp", "fsdp2"], device="cpu")(engine)


def _install() -> None:
    from verl.plugin.platform import PlatformRegistry
    from wrapt import register_post_import_hook

    from critic_r1_verl.cpu.platform import CpuPlatform

    if problems := cpu.version_problems():
        raise RuntimeError("; ".join(problems))
    PlatformRegistry.register(platform="cpu")(CpuPlatform)
    _patch_distributed()
    _patch_vllm_version()
    # Importing the engine costs seconds, and most of verl's processes never use it: patch it when it comes.
    register_post_import_hook(_patch_engine, "verl.workers.engine.fsdp.transformer_impl")


def _is_driver() -> bool:
    """True in the process that the user started, `python -m verl.trainer.main_ppo`; Ray's workers run other commands."""
    return MAIN_PPO in sys.orig_argv


experiment.register()
if cpu.requested():
    try:
        _install()
        if _is_driver():
            from critic_r1_verl import supervise

            for key, value in ENVIRONMENT.items():
                os.environ.setdefault(key, value)
            supervise.attach()
    except Exception as error:
        raise SystemExit(f"critic-r1: the CPU backend cannot start: {error}") from error
