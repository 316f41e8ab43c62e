# SPDX-License-Identifier: Apache-2.0
"""What the plan's numbers stand on: the models' real classes, verl's counter, and what verl reserves from Ray."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest

from critic_r1_verl.training.plan import sizes

TESTS = Path(__file__).parents[1]
GOLDEN = json.loads((TESTS / "golden" / "model_sizes.json").read_text(encoding="utf-8"))

RESERVE = """
import ray, transfer_queue
from omegaconf import OmegaConf
from verl.single_controller.ray import ResourcePoolManager

from critic_r1_verl.training import plan
from critic_r1_verl.training.compose import compose

config = compose("critic_r1", ["trainer.n_gpus_per_node=2", "transfer_queue.backend.SimpleStorage.num_data_storage_units=3"])
OmegaConf.resolve(config)
config.transfer_queue.enable = True
ray.init(num_cpus=40, num_gpus=2, include_dashboard=False)
transfer_queue.init(config.transfer_queue)
pools = ResourcePoolManager(resource_pool_spec={"global_pool": [2]}, mapping={})
pools.create_resource_pool()
pools.resource_pool_dict["global_pool"].get_placement_groups(device_name="cpu")
print("reserved and planned:", 40 - int(ray.available_resources().get("CPU", 0)), plan.ray_cpus(config))
"""


@pytest.mark.parametrize("name", GOLDEN)
def test_sizes(name: str) -> None:
    assert asdict(sizes.of_base(str(TESTS / "fixtures" / "model_configs" / name))) == GOLDEN[name]


@pytest.mark.nightly
def test_verl_reserves_the_planned_cpus(tmp_path: Path) -> None:
    # Ray's sockets lie below its folder, and their paths may have a hundred characters only.
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        environment = os.environ | {"VERL_PLATFORM": "cpu", "RAY_TMPDIR": folder}
        done = subprocess.run([sys.executable, "-c", RESERVE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "reserved and planned: 10 10" in done.stdout, done.stderr
