# SPDX-License-Identifier: Apache-2.0
"""What a run on a Ray cluster that is there already (RAY_ADDRESS) needs beside its own overrides."""

import os
from pathlib import Path

from critic_r1_verl import cpu
from critic_r1_verl.training.compose import quoted

STEPS_PATH = "VERL_FILE_LOGGER_PATH"

# A token for the hub is not among them: verl prints its configuration into the log, so each machine needs one of its own.
FORWARDED = ("VERL_PLATFORM", "CRITIC_R1_POLL_SECONDS", "HF_ENDPOINT", "HF_HUB_OFFLINE", "VLLM_CPU_OMP_THREADS_BIND")


def is_given() -> bool:
    """Whether the environment names a cluster."""
    return bool(os.environ.get("RAY_ADDRESS"))


def overrides(steps_file: Path) -> list[str]:
    """Hydra overrides for verl.trainer.main_ppo; [] without a cluster.

    The processes of a cluster have the environment of `ray start`, so what the run needs goes with its ray.init, which refuses to be told
    how many CPUs and GPUs a cluster has.
    """
    if not is_given():
        return []
    variables = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    if cpu.requested():
        from critic_r1_verl.cpu.patches import ENVIRONMENT

        variables = {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()} | variables
    variables[STEPS_PATH] = str(steps_file)
    return [
        *("ray_kwargs.ray_init.num_cpus=null", "++ray_kwargs.ray_init.num_gpus=null"),
        *(f"++ray_kwargs.ray_init.runtime_env.env_vars.{name}={quoted(value)}" for name, value in variables.items()),
    ]
