# SPDX-License-Identifier: Apache-2.0
"""Checks of a Ray cluster that is there before the run: whether it answers, and whether its nodes would find what the run names."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from critic_r1_verl.training.doctor.finding import Case, Finding

# Where `ray start` notes the address of the cluster that was started last on a machine.
CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")
SECONDS = 3


def cluster_address(config: Any) -> str:
    """The address of a Ray cluster that the run would join; "" if it starts a Ray of its own."""
    address = str(config.ray_kwargs.ray_init.get("address") or os.environ.get("RAY_ADDRESS") or "")
    return "" if address == "local" else address


def check_cluster(case: Case) -> Iterator[Finding]:
    """Whether a run on several nodes names a cluster, whether that answers, and whether paths and settings of Ray suit it."""
    config = case.config
    address = cluster_address(config)
    if not address:
        if config.trainer.nnodes > 1:
            yield Finding(
                "fatal",
                f"trainer.nnodes={config.trainer.nnodes}, but no Ray cluster is named: the run would start a Ray of this machine alone",
                "start Ray on each node, as recipe/README.md says, and name it by RAY_ADDRESS=HOST:PORT",
            )
        return
    if problem := _no_answer(address):
        yield Finding(
            "fatal",
            f"no Ray cluster answers at {address}: {problem}",
            "start it with `ray start --head --port=6379`, correct RAY_ADDRESS, or unset it to train on this machine alone",
        )
    else:
        yield Finding("ok", f"a program answers at {address}, where Ray should be")
    ray_init = config.ray_kwargs.ray_init
    if given := [name for name in ("num_cpus", "num_gpus") if ray_init.get(name) is not None]:
        yield Finding(
            "fatal",
            f"ray_kwargs.ray_init.{given[0]} cannot be given to a cluster that is there already; Ray refuses it",
            "add " + " ".join(f"ray_kwargs.ray_init.{name}=null" for name in given) + ", and give `ray start` the numbers",
        )
    files = {key: config.data[key] for key in ("train_files", "val_files")}
    named = {
        "actor_rollout_ref.model.path": config.actor_rollout_ref.model.path,
        "trainer.default_local_dir": config.trainer.default_local_dir,
        **{f"data.{key}": value for key, value in files.items() if isinstance(value, str)},
    }
    # The base may be a name on the hub; it is a path if it is one here.
    relative = {
        key: str(path)
        for key, path in named.items()
        if not Path(str(path)).is_absolute() and "://" not in str(path) and (not key.endswith("model.path") or Path(str(path)).exists())
    }
    if relative:
        remedy = " ".join(f"{key}={Path(path).absolute()}" for key, path in relative.items() if "default_local_dir" not in key)
        if "trainer.default_local_dir" in relative:
            remedy += " 'trainer.default_local_dir=/SHARED/${trainer.experiment_name}'"
        yield Finding(
            "fatal",
            f"{', '.join(relative)}: a cluster's workers run where `ray start` was typed, and would look for a relative path there",
            f"name paths that are the same on every node: {remedy.strip()}",
        )


def _no_answer(address: str) -> str:
    """Why nothing answers at an address; "" if something does."""
    if address == "auto":
        if not CURRENT_CLUSTER.is_file():
            return f"{CURRENT_CLUSTER} is missing, so `ray start` has not run on this machine"
        address = CURRENT_CLUSTER.read_text(encoding="utf-8").strip()
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address)
    if not found:
        return "that is not HOST:PORT"
    try:
        with socket.create_connection((found[1], int(found[2])), timeout=SECONDS):
            return ""
    except (OSError, OverflowError) as error:
        return str(error)
