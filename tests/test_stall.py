# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from critic_r1_verl import supervise
from critic_r1_verl.supervise import stall
from critic_r1_verl.training.explain import explain

ROOT = Path(__file__).parents[1]

# A driver that takes a step and then waits with a forked helper, a worker that never registered, and neither a line nor a step more.
DRIVER = """
    import os, pathlib, subprocess, sys, time
    from critic_r1_verl.supervise import stall
    folder = pathlib.Path(sys.argv[1])
    def waits_for_a_rank_that_never_comes():
        time.sleep(60)
    stall.register()
    stall.register()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    while not (folder / "watched").exists():
        time.sleep(0.02)
    print("Training Progress", flush=True)
    with open(folder / "steps.jsonl", "a") as steps:
        steps.write("{}\\\\n")
    if os.fork():
        waits_for_a_rank_that_never_comes()
    time.sleep(60)
"""


def test_a_stuck_run_shows_its_stacks_and_ends(tmp_path, monkeypatch):
    monkeypatch.setenv(supervise.STALL_SECONDS, "0.6")
    monkeypatch.setenv(supervise.GRACE_SECONDS, "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "driver.py").write_text(textwrap.dedent(DRIVER))
    log, run_id = tmp_path / "training.log", supervise.new_id()
    with log.open("ab") as output:
        command = [sys.executable, "driver.py", str(tmp_path)]
        driver = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output, env={**os.environ, supervise.RUN: run_id})
        supervise.watch(run_id, driver.pid, training=True, log=output, progress=(log, tmp_path / "steps.jsonl"))
    (tmp_path / "watched").touch()
    assert driver.wait(20) == -signal.SIGKILL
    assert supervise.wait(run_id, 10)
    written = log.read_text()
    assert f"critic-r1: process {driver.pid}, " in written
    # The driver's and the helper's, each once.
    assert written.count("(most recent call first)") == 2
    assert written.count("in waits_for_a_rank_that_never_comes") == 1
    explained = explain(written, 128 + signal.SIGKILL)
    assert re.match(r"critic-r1: the run is stuck and is ended: for \d\.\d min it wrote no line and no step\.", explained)
    assert explained.endswith("CRITIC_R1_STALL_SECONDS sets how long a run may be silent, 0 for ever")


@pytest.mark.parametrize(
    ("allowed_seconds", "events", "noticed_at"),
    [
        # (seconds, what is written then). Before the first step silence is allowed four times as long.
        (10, [], 41),
        (10, [(30, "log")], None),
        (10, [(2, "steps")], 13),
        # Three times the longest silence so far.
        (10, [(5, "steps")], 21),
        # A step that took 20 s was no reason to end the run if it was the first; from then on 60 s are allowed.
        (10, [(20, "steps")], None),
        (10, [(1, "steps"), (5, "log"), (9, "steps")], 22),
        (0, [], None),
    ],
)
def test_how_long_a_run_may_be_silent(tmp_path, monkeypatch, allowed_seconds, events, noticed_at):
    clock = [0.0]
    monkeypatch.setattr(stall.time, "monotonic", lambda: clock[0])
    # The step file of a resumed run has lines already.
    files = {name: tmp_path / name for name in ("log", "steps")}
    files["steps"].write_text("old\n")
    silence = stall.Silence(list(files.values()), allowed_seconds)
    noticed = None
    for second in range(1, 60):
        clock[0] = second
        for at, name in events:
            if at == second:
                with files[name].open("a") as file:
                    file.write("more\n")
        if silence.too_long() is not None:
            noticed = second
            break
    assert noticed == noticed_at


def test_a_process_that_is_not_registered_is_left_alone():
    process = subprocess.Popen(["sleep", "60"])
    try:
        assert stall.stacks_of([psutil.Process(process.pid)]) == {}
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_process_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(stall, "ANSWER_SECONDS", 0.1)
    program = "import time; from critic_r1_verl.supervise import stall; stall.register(); print('registered', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert process.stdout.readline() == b"registered\n"
        process.send_signal(signal.SIGSTOP)
        assert list(stall.stacks_of([psutil.Process(process.pid)]).values()) == [""]
    finally:
        process.kill()
        process.communicate()


def test_a_training_of_the_launcher_is_watched_for_silence(monkeypatch):
    monkeypatch.delenv(supervise.STALL_SECONDS, raising=False)
    run_id = supervise.new_id()
    driver = subprocess.Popen(["sleep", "60"], env={**os.environ, supervise.RUN: run_id})
    try:
        supervise.watch(run_id, driver.pid, training=True, progress=(Path("here.log"),))
        state = json.loads((supervise.SHM / f"critic_r1_run_{os.geteuid()}_{run_id}.json").read_text())
        assert (state["stall_seconds"], state["progress"]) == (1800, [str(Path("here.log").absolute())])
    finally:
        driver.kill()
        driver.wait()
        assert supervise.wait(run_id, 20)
