# SPDX-License-Identifier: Apache-2.0
"""Runs lmms-eval, which keeps its own Python, and brings each task into the run folder OUT/<task>/.

lmms-eval asks a server: one that the user names, or vLLM's over a checkpoint, which starts once the tasks and their data are there. Answers
are kept in OUT/<task>/lmms_eval/, so that a killed run goes on; another model or other settings need another folder.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic_r1_verl import foreign, hub
from critic_r1_verl.engines import secrets
from critic_r1_verl.files import locked, read_object, write_json
from critic_r1_verl.policy_benchmarks import results, server
from critic_r1_verl.scoring.run import CONFIG, Metrics, Run

JUDGE_KEY = "CRITIC_R1_JUDGE_API_KEY"
LOG, SERVER_LOG = "lmms_eval.log", "server.log"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured and how.

    model: a folder or hub id or, with base_url, its name on that server. include: folders with more tasks. limit: at most so many documents
    of a task, the first; 0 for all. max_tokens: 0 for the limit that the task says. judge_url, judge_model: the server and model that read
    the answers of tasks which want a judge. serve: flags for vLLM's server. python: that of an environment with lmms-eval.
    """

    model: str
    tasks: Sequence[str]
    python: Path
    base_url: str = ""
    include: Sequence[str] = ()
    limit: int = 0
    max_tokens: int = 0
    system_prompt: str = ""
    judge_url: str = ""
    judge_model: str = ""
    serve: Sequence[str] = ()
    max_concurrency: int = 64
    max_retries: int = 5
    timeout_seconds: float = 600.0
    max_refused: float = 0.1

    @property
    def asked(self) -> dict[str, Any]:
        """What may not change within a run folder."""
        return {
            "model": self.model,
            "engine": {"kind": "openai" if self.base_url else "vllm"},
            "limit": self.limit,
            "max_tokens": self.max_tokens,
            "system_prompt": self.system_prompt,
            "judge_model": self.judge_model,
        }


def run(settings: Settings, out: Path) -> list[Metrics]:
    """Measure the tasks, as far as they are not measured yet, and return the metrics of each.

    ValueError for a task that lmms-eval does not have or that needs a judge, for other settings than those of the folder, and with what
    lmms-eval, the server or the judge said when it failed.
    """
    if bool(settings.judge_url) != bool(settings.judge_model):
        raise ValueError("--judge-url and --judge-model go together: the root of an API, and the name of a model there")
    if settings.judge_url:
        try:
            secrets.checked_url(settings.judge_url)
        except ValueError as error:
            raise ValueError(str(error).replace("--base-url", "--judge-url")) from None
    if strange := [task for task in settings.tasks if Path(task).name != task]:
        raise ValueError(f"--task {strange[0]}: not the name of a task; --include-path DIR adds the tasks of a folder")
    if twice := [task for task in settings.tasks if settings.tasks.count(task) > 1]:
        raise ValueError(f"--task {twice[0]} is given twice")
    if not settings.python.is_file():
        raise ValueError(f"{settings.python}: no such file; `make eval-policy` installs lmms-eval there, or give --lmms-eval PYTHON")
    runs = [Run(out / task) for task in settings.tasks]
    found: list[Metrics] = []
    failed: list[ValueError] = []
    with ExitStack() as stack:
        for each in runs:
            stack.enter_context(locked(each.folder))
            _check_asked(each, settings.asked)
        if pending := [each for each in runs if not results.is_complete(each, settings.max_refused)]:
            folder = None if settings.base_url else hub.fetch(settings.model, "--model")
            try:
                _measure(settings, folder, pending, out)
            except ValueError as error:
                failed.append(error)
        # A task that failed does not keep back the others.
        for each in runs:
            try:
                found.append(results.bring_in(each, settings.asked, settings.max_refused))
            except ValueError as error:
                failed.append(error)
    if failed:
        raise failed[0]
    return found


def _check_asked(each: Run, asked: dict[str, Any]) -> None:
    """Record the settings before the first answer. ValueError if the folder holds answers to others."""
    other = "give another --out, or delete the folder"
    folder = each.folder / results.FOLDER
    file = folder / results.ASKED
    if file.is_file() and (folder / results.RESPONSES).is_file():
        before = read_object(file, other)
        for key, value in asked.items():
            if before.get(key) != value:
                raise ValueError(f"{file}: made with {key} {before.get(key)!r}, now it is {value!r}; {other}")
    elif (each.folder / CONFIG).is_file() and not file.is_file():
        raise ValueError(f"{each.folder}: holds a run of another command; {other}")
    write_json(file, asked)


def _measure(settings: Settings, model: Path | None, runs: Sequence[Run], out: Path) -> None:
    """Have lmms-eval measure these tasks. model: the folder of the model that has to be served."""
    log = out / LOG
    told = {
        "tasks": [each.name for each in runs],
        "folders": {each.name: str((each.folder / results.FOLDER).absolute()) for each in runs},
        "include": [str(Path(folder).absolute()) for folder in settings.include],
        "judge": bool(settings.judge_url),
        "max_tokens": settings.max_tokens,
        "limit": settings.limit,
    }
    foreign.say(f"lmms-eval reads {', '.join(each.name for each in runs)}; its log: {log}", stderr=True)
    # -P: no folder of ours is on its path.
    command = [str(settings.python), "-P", str(Path(__file__).with_name("inside.py"))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with ExitStack() as stack:
        stream = stack.enter_context(log.open("wb"))
        inside = stack.enter_context(subprocess.Popen(command, stderr=stream, env=_environment(settings), **pipes))
        # If this process fails, its end of the pipe is closed, and lmms-eval is ended.
        stack.callback(inside.kill)
        _say(inside, told)
        _hear(inside, log, "ready")
        url = settings.base_url
        if model:
            url = stack.enter_context(server.served(model, settings.model, settings.serve, out / SERVER_LOG))
        client = {
            "model_version": settings.model,
            "base_url": url,
            "api_key": (secrets.api_key() if settings.base_url else "") or "none",
            "num_cpus": settings.max_concurrency,
            "max_retries": settings.max_retries,
            "timeout": settings.timeout_seconds,
            "system_prompt": settings.system_prompt or None,
        }
        _say(inside, client)
        for each in runs:
            _hear(inside, log, "done", f"answering {each.name}")


def _environment(settings: Settings) -> dict[str, str]:
    """lmms-eval's judge is configured by variables, and some tasks do not load without a key."""
    judge = {"API_TYPE": "openai", "OPENAI_API_KEY": "none"}
    if settings.judge_url:
        judge |= {"OPENAI_API_URL": settings.judge_url, "MODEL_VERSION": settings.judge_model}
        judge["OPENAI_API_KEY"] = os.environ.get(JUDGE_KEY, "").strip() or secrets.api_key() or "none"
    own = {"NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))}
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "no_proxy")} | own | judge


def _say(inside: subprocess.Popen[str], content: dict[str, Any]) -> None:
    assert inside.stdin
    try:
        inside.stdin.write(json.dumps(content) + "\n")
        inside.stdin.flush()
    except BrokenPipeError:
        # It has ended, and what it said before is heard next.
        pass


def _hear(inside: subprocess.Popen[str], log: Path, wanted: str, label: str = "") -> None:
    """Wait for this message, with a progress bar if there is a label. ValueError if another one comes, or the end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    assert inside.stdout
    columns = (foreign.column("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    with Progress(*columns, transient=True, console=foreign.console(stderr=True), disable=not label) as bar:
        shown = bar.add_task(label, total=None)
        for text in inside.stdout:
            message = json.loads(text)
            if wanted in message:
                return
            if "error" in message:
                raise ValueError(f"lmms-eval: {message['error']}; its log: {log}")
            bar.update(shown, completed=message["answered"], total=message["of"])
    inside.wait()
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise ValueError(f"lmms-eval ended with status {inside.returncode}: {said[-1] if said else 'no output'}; its log: {log}")
