# SPDX-License-Identifier: Apache-2.0
"""The entry point in processes that stand in for verl's: a driver, `python -m verl.trainer.main_ppo`, and a worker."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from critic_r1_verl import supervise

ROOT = Path(__file__).parents[1]
# It starts a process too, so that there is something to watch.
MAIN_PPO = """
import json, os, subprocess, sys, time
import critic_r1_verl.training.verl_plugin
from critic_r1_verl.supervise.run import read_state
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
run = os.environ["CRITIC_R1_RUN"]
deadline = time.monotonic() + 10
while read_state(run) and [child.pid] != [pid for pid, _ in read_state(run)["members"]] and time.monotonic() < deadline:
    time.sleep(0.05)
print(json.dumps({"run": run, "state": read_state(run), "child": child.pid, "threads": os.environ.get("OMP_NUM_THREADS")}))
"""


def run_driver(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """The stand-in for `python -m verl.trainer.main_ppo`, in a folder where it is found as that."""
    (folder / "verl" / "trainer").mkdir(parents=True)
    (folder / "verl" / "trainer" / "main_ppo.py").write_text(MAIN_PPO)
    (folder / "verl" / "__init__.py").touch()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CRITIC_R1_", "VERL_"))}
    environment = inherited | {"PYTHONPATH": f"{folder}:{ROOT}", supervise.GRACE_SECONDS: "0", **environment}
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=critic_r1"]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("environment", [{}, {"VERL_PLATFORM": "nvidia", "RAY_ADDRESS": "10.0.0.1:6379"}])
def test_a_driver_on_gpus_is_watched(tmp_path, environment):
    done = run_driver(tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [pid for pid, _ in told["state"]["members"]] == [told["child"]]
    assert told["state"]["hang_seconds"] == 60 and told["threads"] is None
    assert supervise.wait(told["run"], 15)
    assert not psutil.pid_exists(told["child"]) or psutil.Process(told["child"]).status() == psutil.STATUS_ZOMBIE


def test_a_driver_that_our_launcher_watches_gets_no_second_supervisor(tmp_path):
    done = run_driver(tmp_path, CRITIC_R1_RUN="launched")
    told = json.loads(done.stdout)
    os.kill(told["child"], 9)
    assert (told["run"], told["state"]) == ("launched", None)


def test_bad_settings_end_the_driver_with_a_message(tmp_path):
    done = run_driver(tmp_path, CRITIC_R1_HANG_SECONDS="soon")
    assert done.returncode == 1
    assert done.stderr.startswith("critic-r1: the training cannot start: CRITIC_R1_HANG_SECONDS=soon: not a number of seconds")


def test_another_process_off_the_cpu_loads_nothing_and_is_not_watched():
    program = """
import os, sys
import critic_r1_verl.training.verl_plugin
from omegaconf import OmegaConf
print(OmegaConf.has_resolver("critic_r1_experiment"), "CRITIC_R1_RUN" in os.environ)
print(*sys.modules.keys() & {"torch", "verl", "ray", "vllm", "numpy", "psutil", "critic_r1_verl.supervise", "critic_r1_verl.cpu.patches"})
"""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CRITIC_R1_", "VERL_"))}
    # The words of the driver are in the arguments of the program only, as they may be in a worker's.
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=inherited | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True False", ""]
