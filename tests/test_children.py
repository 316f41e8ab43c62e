# SPDX-License-Identifier: Apache-2.0
"""Child processes: their failure is explained, signals reach them, and they end when their parent is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from critic_r1_verl import children

# Says that it runs, and when SIGTERM comes, in a file; it would sleep much longer than the test waits.
SLEEPER = """
import pathlib, signal, sys, time
from critic_r1_verl import children

def end(number, frame):
    pathlib.Path("ended").write_text(str(number))
    sys.exit(3)

signal.signal(signal.SIGTERM, end)
children.end_with_parent()
pathlib.Path("runs").touch()
time.sleep(60)
"""


def wait_for(file: Path, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < deadline, f"{file} did not appear"
        time.sleep(0.02)


def test_the_output_of_a_failure_is_kept_and_its_end_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "a.log"
    children.run("-c", "print('fine')", log=log)
    assert log.read_text() == "fine\n"
    program = "import sys; print(*range(9), sep='\\n'); sys.exit('no data')"
    with pytest.raises(ValueError, match=r"failed with exit status 1; its whole output is in .*a\.log"):
        children.run("-u", "-c", program, log=log)
    assert capsys.readouterr().err == "5\n6\n7\n8\nno data\n"


def test_a_signal_reaches_the_child_and_then_ends_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def stop() -> None:
        wait_for(tmp_path / "runs")
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(SystemExit) as end:
        children.run("-c", SLEEPER, log=tmp_path / "a.log")
    stopper.join()
    assert end.value.code == 128 + signal.SIGTERM
    assert (tmp_path / "ended").read_text() == str(signal.SIGTERM.value)


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", f"from critic_r1_verl import children; children.run('-c', {SLEEPER!r})"], cwd=tmp_path)
    wait_for(tmp_path / "runs")
    parent.kill()
    parent.wait()
    wait_for(tmp_path / "ended")
