# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from critic_r1_verl import supervise
from critic_r1_verl.training import launch

# Stands in for verl's trainer: writes its step file as verl does, from the step after the last checkpoint on.
MAIN = """
    import json, os, sys, time
    first, last, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    steps = open(os.environ["VERL_FILE_LOGGER_PATH"], "wb", buffering=0)
    print("Training Progress:   0%|          | 0/3 [00:00<?, ?it/s]", flush=True)
    for step in range(first, last + 1):
        data = {"critic/score/mean": step / 10, "reward/acc/mean": None, "timing_s/step": 8.0}
        steps.write(json.dumps({"step": step, "data": data}).encode() + b"\\n")
    names = ("CRITIC_R1_RUN", "RAY_TMPDIR")
    print(json.dumps({name: os.environ.get(name) for name in names}), flush=True)
    if mode == "fail":
        sys.exit("Traceback (most recent call last):\\nKeyError: 'prompt'")
    if mode == "killed":
        print("step:1 - " + "actor/kl_loss:0.001 - " * 300, flush=True)
        os.kill(os.getpid(), 9)
    if mode == "sleep":
        print("asleep", os.getpid(), flush=True)
        time.sleep(10)
        print("awake", flush=True)
"""


def wait_for(condition, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def ended(pid: int) -> bool:
    """A process that nobody has asked for its exit status has ended too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def fake_main(tmp_path, monkeypatch):
    path = tmp_path / "main.py"
    path.write_text(textwrap.dedent(MAIN))
    monkeypatch.setattr(launch, "_command", lambda recipe, overrides: [sys.executable, str(path), *overrides])
    monkeypatch.delenv(launch.STEPS_PATH, raising=False)
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    return tmp_path / "runs" / "training.log"


def test_the_command_is_verls_own():
    assert launch._command("critic_r1", ["+recipe/base=tiny"])[1:] == [
        "-m",
        "verl.trainer.main_ppo",
        "+recipe=critic_r1",
        "+recipe/base=tiny",
    ]


def test_a_run_is_followed_and_its_environment_is_its_own(fake_main, monkeypatch, capsys):
    monkeypatch.setenv(supervise.RUN, "outer")
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    seen = []
    assert launch.train("critic_r1", ["1", "3", "end"], log_path=fake_main, on_step=seen.append) == 0
    assert [line["step"] for line in seen] == [1, 2, 3]
    assert seen[0]["data"]["critic/score/mean"] == 0.1
    assert fake_main.with_suffix(".jsonl").read_text().count("\n") == 3
    environment = json.loads(fake_main.read_text().splitlines()[-1])
    assert environment["CRITIC_R1_RUN"] not in (None, "outer")
    assert environment["RAY_TMPDIR"] and not Path(environment["RAY_TMPDIR"]).exists()
    shown = capsys.readouterr().err
    assert "3/3" in shown and "score 0.30, 8.0 s a step" in shown


def test_off_the_cpu_ray_keeps_its_folder(fake_main, capsys):
    assert launch.train("critic_r1", ["1", "1", "end"], log_path=fake_main, quiet=True) == 0
    environment = json.loads(fake_main.read_text().splitlines()[-1])
    assert environment["RAY_TMPDIR"] == os.environ.get("RAY_TMPDIR")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("platform", ["cpu", "nvidia"])
def test_a_killed_launcher_takes_the_run_with_it(fake_main, platform):
    program = """
        import sys
        from pathlib import Path
        from critic_r1_verl.training import launch
        launch._command = lambda recipe, overrides: [sys.executable, sys.argv[1], *overrides]
        launch.train("critic_r1", ["1", "1", "sleep"], log_path=Path(sys.argv[2]), quiet=True)
    """
    arguments = [sys.executable, "-c", textwrap.dedent(program), str(fake_main.parents[1] / "main.py"), str(fake_main)]
    launcher = subprocess.Popen(arguments, env=os.environ | {"VERL_PLATFORM": platform, supervise.GRACE_SECONDS: "0"})
    wait_for(lambda: fake_main.exists() and "asleep" in fake_main.read_text())
    environment, (_, pid) = json.loads(fake_main.read_text().splitlines()[-2]), fake_main.read_text().splitlines()[-1].split()
    state = supervise.SHM / f"critic_r1_run_{os.geteuid()}_{environment['CRITIC_R1_RUN']}.json"
    wait_for(lambda: state.exists() and json.loads(state.read_text())["supervisor"])
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not state.exists())
    assert ended(int(pid))
    assert f"critic-r1: process {launcher.pid}, which started this run, has ended" in fake_main.read_text()
    assert platform == "nvidia" or not Path(environment["RAY_TMPDIR"]).exists()


def test_bad_settings_of_the_supervisor_start_nothing(fake_main, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setenv(supervise.HANG_SECONDS, "soon")
    folders = set(Path(tempfile.gettempdir()).glob("critic_r1_*"))
    with pytest.raises(ValueError, match="CRITIC_R1_HANG_SECONDS=soon"):
        launch.train("critic_r1", ["1", "1", "sleep"], log_path=fake_main, quiet=True)
    assert "asleep" not in fake_main.read_text()
    assert set(Path(tempfile.gettempdir()).glob("critic_r1_*")) <= folders


def test_a_failure_is_one_message(fake_main, capsys):
    fake_main.parent.mkdir()
    fake_main.write_text("critic-r1: ray::WorkerDict (process 1) died in an earlier run\n")
    assert launch.train("critic_r1", ["1", "1", "fail"], log_path=fake_main, quiet=True) == 1
    message = capsys.readouterr().err
    assert message.splitlines()[0] == "training failed with exit status 1"
    assert message.splitlines()[1] == "  KeyError: 'prompt'"
    assert message.splitlines()[2].startswith("  what to do: ")
    assert message.splitlines()[3] == f"  log: {fake_main}"


def test_a_killed_trainer_is_said_to_be_killed(fake_main, capsys):
    assert launch.train("critic_r1", ["1", "1", "killed"], log_path=fake_main, quiet=True) == 137
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "training failed with exit status 137",
        "  the trainer was killed by SIGKILL, perhaps because memory ran out",
    ]
    assert lines[2].startswith("  what to do: ") and lines[3:] == [f"  log: {fake_main}"]


@pytest.mark.parametrize(
    ("first", "last", "steps"),
    [
        # goes on after step 2; validates again at step 2, then goes on; starts anew; fails before its first step
        (3, 4, [1, 2, 3, 4]),
        (2, 4, [1, 2, 3, 4]),
        (1, 2, [1, 2]),
        (1, 0, [1, 2]),
    ],
)
def test_the_steps_of_a_resumed_run_are_kept(fake_main, first, last, steps):
    path = fake_main.with_suffix(".jsonl")
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"step": step, "data": {"old": step}}) + "\n" for step in (1, 2)))
    assert launch.train("critic_r1", [str(first), str(last), "end"], log_path=fake_main, quiet=True) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == steps
    assert [path.name for path in path.parent.iterdir() if path.name.startswith(path.stem)].count("training.jsonl.before") == 0
    if first == 2:
        assert lines[1]["data"]["old"] == 2 and lines[1]["data"]["critic/score/mean"] == 0.2


@pytest.mark.parametrize(("number", "ignored"), [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_goes_on_to_the_run(fake_main, capsys, request, number, ignored):
    """Also where the shell that started it in the background had it ignored, as scripts do with SIGINT."""
    if ignored:
        request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_IGN)))

    def interrupt() -> None:
        while not (fake_main.exists() and "asleep" in fake_main.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    thread = threading.Thread(target=interrupt)
    thread.start()
    assert launch.train("critic_r1", ["1", "1", "sleep"], log_path=fake_main, quiet=True) == 128 + number
    thread.join()
    assert f"training was stopped by {number.name}" in capsys.readouterr().err
    assert "awake" not in fake_main.read_text()
    assert signal.getsignal(number) is handler


def test_an_error_of_the_caller_ends_the_run(fake_main):
    def stop(step: dict) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        launch.train("critic_r1", ["1", "1", "sleep"], log_path=fake_main, quiet=True, on_step=stop)
