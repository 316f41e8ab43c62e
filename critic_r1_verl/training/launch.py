# SPDX-License-Identifier: Apache-2.0
"""Start verl's trainer as a child with a supervisor, show its progress in one line, and say in one message why it failed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from critic_r1_verl import children, foreign, supervise
from critic_r1_verl.training import cluster
from critic_r1_verl.training.agreement import Agreement
from critic_r1_verl.training.cluster import STEPS_PATH
from critic_r1_verl.training.explain import explain, port_was_taken

POLL_SECONDS = 0.25
CLEANUP_SECONDS = 60.0
RESTARTS = 2
"""How often a run that found a port taken, before its first step, is started again."""

_LOGGED_STEP = re.compile(r"step:(\d+) - [^\n]*critic/score/mean:")
_TOTAL_STEPS = re.compile(r"Total training steps: (\d+)|Training Progress:[^\r\n]*?\| *\d+/(\d+) \[")


def train(recipe: str, overrides: list[str], *, log_path: Path, quiet: bool = False, on_step: Callable[[dict], None] | None = None) -> int:
    """Run `python -m verl.trainer.main_ppo +recipe=RECIPE OVERRIDES...` and return its exit status, 128 + n after signal n.

    log_path: everything that the run prints is appended to it. The steps, one JSON line {"step", "data"} each, go to
    VERL_FILE_LOGGER_PATH, by default log_path with the suffix .jsonl; earlier lines stay when a run is resumed. on_step is called with each
    new line. quiet: do not show the progress. Ctrl-C and SIGTERM are passed on to the run, and a second one kills it. A supervisor watches
    the run on every device: if this process dies, the run ends too. A failure is explained on stderr. A run that found a port taken before
    its first step is started again, and one in which rollout and actor do not agree (agreement.py) is ended. Raises ValueError for bad
    settings of the supervisor or of the agreement.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    steps_file = steps_path(log_path)
    command = _command(recipe, [*overrides, *cluster.overrides(steps_file)])
    with _kept_steps(steps_file):
        for start in range(1 + RESTARTS):
            if start:
                foreign.say(
                    f"another process took a port of the run before its first step; start {start + 1} of {1 + RESTARTS}", stderr=True
                )
            attempt = _Attempt(command, log_path, steps_file)
            attempt.follow(quiet, on_step or (lambda step: None))
            if not attempt.found_port_taken():
                break
    return attempt.explained_status()


class _Attempt:
    """One start of the trainer, its log from its own first line on, and what became of it."""

    def __init__(self, command: list[str], log_path: Path, steps_file: Path) -> None:
        self._command, self._log_path, self._steps_file = command, log_path, steps_file
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        self._signals: list[int] = []
        self._num_steps, self._returncode = 0, 0
        self._agreement = Agreement()
        self._disagreement: str | None = None

    def follow(self, quiet: bool, on_step: Callable[[dict], None]) -> None:
        """Start the trainer with its supervisor, and return when nothing of the run is left."""
        run_id, folder = supervise.new_id(), None
        environment = os.environ | {STEPS_PATH: str(self._steps_file), supervise.RUN: run_id}
        if os.environ.get("VERL_PLATFORM") == "cpu" and not cluster.is_given():
            # On one machine each run starts a Ray of its own. With a folder of its own it finds no other run's and leaves nothing behind.
            folder = supervise.new_folder(run_id)
            environment |= dict.fromkeys(("RAY_TMPDIR", "VLLM_RPC_BASE_PATH"), str(folder))
        with self._log_path.open("ab") as log:
            process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
            try:
                with children.forwarded_signals(process, self._signals), _progress(quiet) as show:
                    progress = (self._log_path, self._steps_file)
                    supervise.watch(run_id, process.pid, training=True, tie_to=os.getpid(), folder=folder, log=log, progress=progress)
                    self._follow_steps(process, show, on_step)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                supervise.wait(run_id, CLEANUP_SECONDS)
                if folder:
                    # It is still there if the supervisor could not be started.
                    supervise.remove_folder(folder, run_id)
        self._returncode = process.returncode

    def _follow_steps(self, process: subprocess.Popen, show: Callable[[dict, int | None], None], on_step: Callable[[dict], None]) -> None:
        offset, total_steps = 0, None
        running = True
        while running:
            # Poll before reading, so that the last lines are read too.
            running = process.poll() is None
            steps, offset = _new_steps(self._steps_file, offset)
            for step in steps:
                self._num_steps += 1
                total_steps = total_steps or _find_total_steps(self._log_path, self._log_start)
                show(step, total_steps)
                on_step(step)
                self._disagreement = self._disagreement or self._agreement.problem(step)
            if self._disagreement:
                # The run is killed at once, because what it would still learn is noise; its checkpoints stay on the disk.
                return
            if running:
                time.sleep(POLL_SECONDS)

    def found_port_taken(self) -> bool:
        """Whether it failed before its first step because another process had a port."""
        failed = self._returncode and not self._signals and not self._num_steps
        return bool(failed) and port_was_taken(_log_text(self._log_path, self._log_start))

    def explained_status(self) -> int:
        """The exit status, explained on stderr if it is not 0."""
        status = self._returncode if self._returncode >= 0 else 128 - self._returncode
        if self._signals:
            status = 128 + self._signals[0]
            name = signal.Signals(self._signals[0]).name
            foreign.say(f"training was stopped by {name}; the same command goes on from the last checkpoint", stderr=True)
        elif self._disagreement:
            status = 1
            foreign.say(f"training was stopped: {self._disagreement}\n  log: {self._log_path}", stderr=True)
        elif status:
            cause = explain(_log_text(self._log_path, self._log_start), status).replace("\n", "\n  ")
            foreign.say(f"training failed with exit status {status}\n  {cause}\n  log: {self._log_path}", stderr=True)
        return status


def steps_path(log_path: Path) -> Path:
    """Where the steps of a run with this log are written."""
    return Path(os.environ.get(STEPS_PATH) or log_path.with_suffix(".jsonl")).absolute()


def last_logged_step(log_path: Path, start: int) -> int | None:
    """The last step that was trained, as the log says from the byte `start` on, where there may be no step file; None if there was none."""
    found = _LOGGED_STEP.findall(_log_text(log_path, start))
    return int(found[-1]) if found else None


def _command(recipe: str, overrides: list[str]) -> list[str]:
    return [sys.executable, "-m", "verl.trainer.main_ppo", f"+recipe={recipe}", *overrides]


def _log_text(path: Path, start: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def _find_total_steps(log_path: Path, start: int) -> int | None:
    match = _TOTAL_STEPS.search(_log_text(log_path, start))
    return int(match[1] or match[2]) if match else None


def _new_steps(path: Path, offset: int) -> tuple[list[dict], int]:
    """The complete lines from offset on, and the offset after them."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:end].splitlines()], offset + end


@contextlib.contextmanager
def _kept_steps(path: Path) -> Iterator[None]:
    """Keep the steps of earlier runs: verl empties its step file when it starts, so their lines are put back in front of the new ones.

    Lines of an earlier run from the first new step on are dropped.
    """
    before = path.with_name(path.name + ".before")

    def merge() -> None:
        earlier, new = _new_steps(before, 0)[0], _new_steps(path, 0)[0]
        first = min((line["step"] for line in new), default=sys.maxsize)
        merged = {line["step"]: line["data"] for line in earlier if line["step"] <= first}
        for line in new:
            # A resumed run may validate again at the step it starts from.
            merged[line["step"]] = merged.get(line["step"], {}) | line["data"]
        part = path.with_name(path.name + ".part")
        part.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in merged.items()))
        os.replace(part, path)
        before.unlink(missing_ok=True)

    if before.exists():
        # An earlier process was killed before it could merge.
        merge()
    if path.exists():
        os.replace(path, before)
    try:
        yield
    finally:
        if before.exists():
            merge()


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[dict, int | None], None]]:
    """Yields show(step line, total steps), which updates one live line on stderr."""
    if quiet:
        yield lambda step, total_steps: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    text = foreign.column("{task.fields[numbers]}")
    columns = ("training", BarColumn(bar_width=20), MofNCompleteColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=foreign.console(stderr=True)) as progress:
        task = progress.add_task("training", total=None, numbers="starting")

        def show(step: dict, total_steps: int | None) -> None:
            names = {"score": "critic/score/mean", "accuracy": "reward/acc/mean", "s a step": "timing_s/step"}
            data = step["data"]
            values = {label: data[name] for label, name in names.items() if data.get(name) is not None}
            numbers = ", ".join(
                f"{value:.1f} {label}" if label == "s a step" else f"{label} {value:.2f}" for label, value in values.items()
            )
            progress.update(task, completed=step["step"], total=total_steps, numbers=numbers)

        yield show
