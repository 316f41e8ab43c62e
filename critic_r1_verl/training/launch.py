# SPDX-License-Identifier: Apache-2.0
"""Start verl's trainer as a child, show its progress in one line, and say in one message why it failed."""

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from critic_r1_verl import supervise

STEPS_PATH = "VERL_FILE_LOGGER_PATH"
POLL_SECONDS = 0.25
CLEANUP_SECONDS = 60.0

_MEMORY = "use a smaller batch or shorter prompts and responses, and end other programs; `critic-r1 doctor` says what an earlier run left"

# (pattern of a line, what to do), the surest first. They count wherever they stand: what follows from them hides them.
CAUSES = (
    (r"critic-r1: \S+ \(process \d+\) died .*", ""),
    (
        r"In '.*': Could not find .*|Could not (override|append to config) .*|Error merging override .*",
        "check the recipe's name and the overrides; `python -m verl.trainer.main_ppo +recipe=critic_r1 --cfg job` prints every key",
    ),
    (r"ValueError: .*: row \d+: .*", ""),
    (
        r"ValueError: .*(larger than the available KV cache|memory for the cache blocks|less than requested memory for kv).*",
        "give vLLM's cache more room by VLLM_CPU_KVCACHE_SPACE (GiB, on a CPU) or actor_rollout_ref.rollout.gpu_memory_utilization "
        "(on a GPU), or let it need less by a smaller actor_rollout_ref.rollout.max_model_len",
    ),
    (r".*(running low on memory|CUDA out of memory).*|(\w+\.)*(OutOfMemoryError|MemoryError)\b.*", _MEMORY),
    (
        r".*No space left on device.*",
        "free space on that disk; checkpoints go to trainer.default_local_dir, Ray's files to the temporary folder",
    ),
    (
        r"[\w.]+(Error|Exception): .*([Aa]ddress already in use|EADDRINUSE).*",
        "another program has that port, perhaps an earlier run: `critic-r1 doctor` lists what runs left",
    ),
    (
        r"[\w.]+: .*(is not a local folder|couldn't connect to|Repo id must|requested files in the local cache|offline mode is enabled).*",
        "actor_rollout_ref.model.path must be the folder of a model in Hugging Face format or, with access to a hub, a model's id",
    ),
)
# The same for types of exceptions that also stand harmlessly in a log: only where it is the last exception.
REMEDIES = (
    (
        r"FileNotFoundError: .*\.(parquet|jsonl?)\b.*",
        "build the data with `make prep`, or name existing files by data.train_files and data.val_files",
    ),
    (r"KeyError: .*", "that key is not where it was looked for: if it is a column of the data, rebuild them with `make prep`"),
    (r"ModuleNotFoundError: .*", "install what is missing with `make setup`"),
    (r".*", "see the traceback above this line in the log"),
)
_DIED = (r".*(died unexpectedly|SYSTEM_ERROR).*", "if memory ran out, `dmesg | grep -i 'killed process'` says so: " + _MEMORY)

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_RAY_PREFIX = re.compile(r"^(?:\([\w:.]+ pid=\d+(?:, ip=[^)]*)?\) ?)+")
_EXCEPTION = re.compile(r"^(?:\w+\.)*(?P<type>[A-Z]\w*(?:Error|Exception|Exit))(?:: .*)?$")
# What follows from another error, in the order of a cascade.
_CONSEQUENCES = re.compile(
    r"^(?:\w+\.)*(?:RayTaskError|ActorDiedError|RayActorError|ActorUnavailableError|WorkerCrashedError|EngineDeadError|CancelledError|BrokenPipeError)"
    r"|^BufferError: cannot close exported pointers exist|Engine core initialization failed"
)
_TOTAL_STEPS = re.compile(r"Total training steps: (\d+)|Training Progress:[^\r\n]*?\| *\d+/(\d+) \[")


def end_with_make() -> None:
    """Where make runs this process, end it when make dies, however it dies: make cannot do that when it is killed itself."""
    if "MAKELEVEL" in os.environ and sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


def train(recipe: str, overrides: list[str], *, log_path: Path, quiet: bool = False, on_step: Callable[[dict], None] | None = None) -> int:
    """Run `python -m verl.trainer.main_ppo +recipe=RECIPE OVERRIDES...` and return its exit status, 128 + n after signal n.

    log_path: everything that the run prints is appended to it. The steps, one JSON line {"step", "data"} each, go to
    VERL_FILE_LOGGER_PATH, by default log_path with the suffix .jsonl; earlier lines stay when a run is resumed. on_step is called with each
    new line. quiet: no live line. Ctrl-C and SIGTERM go on to the run, a second one kills it; if this process dies, the run ends too. A
    failure is explained on stderr.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    steps_path = Path(os.environ.get(STEPS_PATH) or log_path.with_suffix(".jsonl")).absolute()
    environment = {name: value for name, value in os.environ.items() if name != supervise.RUN}
    environment |= {STEPS_PATH: str(steps_path), supervise.TIE_TO: str(os.getpid())}
    run_id, folder = supervise.new_id(), None
    if os.environ.get("VERL_PLATFORM") == "cpu":
        # One machine, one Ray: in a folder of its own it finds no other run's, and leaves nothing. Clusters keep theirs.
        folder = supervise.new_folder(run_id)
        environment |= dict.fromkeys((supervise.TMP, "RAY_TMPDIR", "VLLM_RPC_BASE_PATH"), str(folder))
    signals: list[int] = []
    with log_path.open("ab") as log, _kept_steps(steps_path):
        log_start = log.tell()
        process = subprocess.Popen(
            _command(recipe, overrides), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            with _forwarded_signals(process, signals), _progress(quiet) as show:
                offset, total_steps = 0, None
                running = True
                while running:
                    # Asked before reading, so that the lines of the last moment are read too.
                    running = process.poll() is None
                    steps, offset = _new_steps(steps_path, offset)
                    for step in steps:
                        total_steps = total_steps or _find_total_steps(log_path, log_start)
                        show(step, total_steps)
                        if on_step:
                            on_step(step)
                    if running:
                        time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if folder:
                # Returns at once where no reaper was attached; the folder is then still there.
                supervise.wait(run_id, CLEANUP_SECONDS)
                supervise.remove_folder(folder, run_id)
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    if signals:
        status = 128 + signals[0]
        print(
            f"training was stopped by {signal.Signals(signals[0]).name}; the same command goes on from the last checkpoint", file=sys.stderr
        )
    elif status:
        cause = explain(_log_text(log_path, log_start)).replace("\n", "\n  ")
        print(f"training failed with exit status {status}\n  {cause}\n  log: {log_path}", file=sys.stderr)
    return status


def explain(log_text: str) -> str:
    """The root cause of a failed run: the line of the log that names it and, where something can be said, a line 'what to do: ...'.

    Known causes come first, then the last exception that is not the consequence of another, then the last eight lines.
    """
    lines = [_RAY_PREFIX.sub("", _ANSI.sub("", line)).strip() for line in re.split(r"[\r\n]+", log_text)]
    exception = _last_exception(lines)
    for candidates, table in ((lines[::-1], CAUSES), ([exception] if exception else [], REMEDIES), (lines, (_DIED,))):
        for pattern, remedy in table:
            found = next((line for line in candidates if re.fullmatch(pattern, line)), None)
            if found:
                cause = found if len(found) <= 500 else found[:500] + " ..."
                return f"{cause}\nwhat to do: {remedy}" if remedy else cause
    return "\n".join(["no error that is known; the last lines:", *[line for line in lines if line][-8:]])


def _last_exception(lines: list[str]) -> str | None:
    found, ignored = None, False
    for line in lines:
        if line.startswith("Exception ignored in"):
            ignored = True
        elif _EXCEPTION.match(line):
            if not ignored and not _CONSEQUENCES.search(line):
                found = line
            ignored = False
    return found


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
    """verl empties its step file when it starts; lines of earlier runs, up to the first new step, are put back in front."""
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
        # The process that should have merged was killed.
        merge()
    if path.exists():
        os.replace(path, before)
    try:
        yield
    finally:
        if before.exists():
            merge()


@contextlib.contextmanager
def _forwarded_signals(process: subprocess.Popen, received: list[int]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run, which has a session of its own; received collects them."""

    def forward(number: int, _frame: object) -> None:
        # Never SIGINT, which a run ignores whose shell started it in the background; Ray shuts down on SIGTERM too.
        process.send_signal(signal.SIGKILL if received else signal.SIGTERM)
        received.append(number)

    # Python lets only the main thread handle signals.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[dict, int | None], None]]:
    """Yields show(step line, total steps), which updates one live line on stderr."""
    if quiet:
        yield lambda step, total_steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.fields[numbers]}")
    columns = ("training", BarColumn(bar_width=20), MofNCompleteColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
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
