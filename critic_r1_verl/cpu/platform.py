# SPDX-License-Identifier: Apache-2.0
"""The platform for verl on a machine without an accelerator: one device called "cpu", one logical GPU in Ray, gloo between workers."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from verl.plugin.platform import PlatformBase


class DeviceModule:
    """torch.cpu with those functions of torch.cuda that verl calls on the module of its device and that torch.cpu lacks."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_name(self, *_: Any) -> str:
        return "cpu"

    def empty_cache(self) -> None: ...

    def ipc_collect(self) -> None: ...

    def reset_peak_memory_stats(self, *_: Any) -> None: ...

    def memory_allocated(self, *_: Any) -> int:
        return 0

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        import psutil

        memory = psutil.virtual_memory()
        return memory.available, memory.total

    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: Any) -> None:
        torch.set_rng_state(state)


class CpuPlatform(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = DeviceModule()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Always False, so that verl never selects this platform automatically: only VERL_PLATFORM=cpu does."""
        return False

    def current_device(self) -> torch.device:
        """A device and not an index, because verl passes it to torch, for which the index 0 means cuda:0."""
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        """verl's resource check knows only GPU and NPU; recipe/hardware/cpu.yaml gives Ray one logical GPU."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """False: there is no CUDA IPC, and weights go from trainer to rollout through shared memory."""
        return False

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def cudart(self) -> None:
        return None
