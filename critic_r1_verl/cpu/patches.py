# SPDX-License-Identifier: Apache-2.0
"""What verl needs on the CPU: the "cpu" platform, a few patches, and the environment of the processes that the driver starts."""

import os

from critic_r1_verl import cpu

# Set in the driver before Ray starts, so that all of its processes inherit them. A value that the user has set is kept.
ENVIRONMENT = {
    # Trainer and rollout take turns on the cores, and a model this small gains nothing from more threads.
    "OMP_NUM_THREADS": "2",
    "TOKENIZERS_PARALLELISM": "false",
    # In GiB. A model of this size needs little, and vLLM's default of 4 may be half of the machine's memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # The model is not compiled. Without this, vLLM would still compile its sampler, which takes half a minute.
    "TORCHDYNAMO_DISABLE": "1",
    # It tells vllm_plugin that this vLLM belongs to a training and has to take new weights.
    cpu.WEIGHT_SYNC: "1",
}


def install() -> None:
    """Register the platform and patch verl in this process. RuntimeError if the versions are not those that the patches were made for."""
    from verl.plugin.platform import PlatformRegistry
    from wrapt import register_post_import_hook

    from critic_r1_verl.cpu.platform import CpuPlatform

    if problems := cpu.version_problems():
        raise RuntimeError("; ".join(problems))
    PlatformRegistry.register(platform="cpu")(CpuPlatform)
    _patch_distributed()
    _patch_vllm_version()
    # Importing the engine takes seconds, and most of verl's processes never use it. So it is patched when a process imports it.
    register_post_import_hook(_patch_engine, "verl.workers.engine.fsdp.transformer_impl")


def set_environment() -> None:
    """Set the environment of the driver, which the processes that it starts inherit."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def _patch_distributed() -> None:
    """verl asks for the backend "cpu:gloo,<device>:<backend>". With the device "cpu" that names it twice, which torch refuses."""
    import torch.distributed

    init = torch.distributed.init_process_group

    def init_process_group(backend: str | None = None, *args, **kwargs):
        return init("cpu:gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)

    torch.distributed.init_process_group = init_process_group


def _patch_vllm_version() -> None:
    """verl asks for the version of the distribution "vllm", which is called vllm-cpu here. vLLM itself expects "+cpu" at its end."""
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
    """Register verl's FSDP engines, which are there for cuda and npu only, for the CPU; and do not pin memory, which needs a GPU."""
    from verl.workers.engine.base import EngineRegistry

    offload_policy = module.CPUOffloadPolicy
    module.CPUOffloadPolicy = lambda **_: offload_policy(pin_memory=False)
    for model_type, engine in (("language_model", module.FSDPEngineWithLMHead), ("value_model", module.FSDPEngineWithValueHead)):
        EngineRegistry.register(model_type=model_type, backend=["fsdp", "fsdp2"], device="cpu")(engine)
