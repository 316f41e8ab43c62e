# SPDX-License-Identifier: Apache-2.0
"""critic-r1 eval-policy: tasks of lmms-eval, for a model or a server."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl.cli import flags


def add_commands(commands: Any) -> None:
    command = flags.command(
        commands,
        "eval-policy",
        _eval_policy,
        "measure answers on tasks of lmms-eval, such as MMMU, MMStar and MathVista; the same command resumes an interrupted run",
        "critic-r1 eval-policy --model runs/trained --task mmmu_val --task mmstar --out runs/policy/trained",
    )
    command.add_argument("--model", default="", metavar="M", help="folder or hub id of the model; with --base-url, its name on the server")
    command.add_argument(
        "--task",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME",
        help="tasks of lmms-eval; most data are on the hub",
    )
    command.add_argument("--include-path", action="append", default=[], metavar="DIR", help="a folder with more tasks; may be repeated")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="write each task to DIR/NAME/, or resume it there")
    command.add_argument("--limit", type=flags.count, default=0, metavar="N", help="use only the first N items of a task")
    command.add_argument(
        "--max-tokens", type=flags.count, default=0, metavar="N", help="limit for one answer (default: what the task says, often 16 to 128)"
    )
    command.add_argument("--system-prompt", default="", metavar="TEXT|FILE", help="how the model shall answer, such as with its reasoning")
    command.add_argument("--json", action="store_true", help="print the metrics as JSON instead of tables")
    default = Path(sys.prefix) / "lmms-eval" / "bin" / "python"
    command.add_argument(
        "--lmms-eval", type=Path, default=default, metavar="PYTHON", help="Python of an environment with lmms-eval (default: %(default)s)"
    )
    here = command.add_argument_group("on this machine (vLLM's server)")
    here.add_argument("--max-model-len", type=flags.count, metavar="N", help="limit for prompt and answer (default: that of the model)")
    here.add_argument("--tensor-parallel-size", type=flags.count, default=1, metavar="N", help="GPUs for each copy of the model")
    here.add_argument("--data-parallel-size", type=flags.count, metavar="N", help="copies of the model (default: as GPUs allow)")
    server = command.add_argument_group("on a server (OpenAI's chat completions; the key is read from OPENAI_API_KEY)")
    server.add_argument("--base-url", default="", metavar="URL", help="root of the API, such as http://localhost:8000/v1")
    server.add_argument("--max-concurrency", type=flags.count, default=64, metavar="N", help="requests in flight (default: %(default)s)")
    server.add_argument("--max-retries", type=flags.count, default=5, metavar="N", help="attempts for one request (default: %(default)s)")
    server.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="limit for one attempt (default: %(default)s)")
    server.add_argument(
        "--max-refused", type=flags.share, default=0.1, metavar="SHARE", help="requests that may fail in the end (default: %(default)s)"
    )
    judge = command.add_argument_group("judge, for tasks that want one (its key is read from CRITIC_R1_JUDGE_API_KEY, else OPENAI_API_KEY)")
    judge.add_argument("--judge-url", default="", metavar="URL", help="root of its API, such as https://api.openai.com/v1")
    judge.add_argument("--judge-model", default="", metavar="NAME", help="its name there")


def _eval_policy(arguments: argparse.Namespace) -> int:
    from critic_r1_verl import devices
    from critic_r1_verl.engines.openai_client import OpenAIEngine
    from critic_r1_verl.policy_benchmarks import run
    from critic_r1_verl.report import terminal

    serve: list[str] = []
    if arguments.base_url:
        # It checks URL and key, and asks the server for the name of its only model.
        arguments.model = OpenAIEngine(arguments.base_url, arguments.model).name
    elif not arguments.model:
        raise ValueError("--model is missing: give the folder or hub id of a model, or --base-url URL for a server")
    else:
        copies = arguments.data_parallel_size or max(1, devices.gpu_count() // arguments.tensor_parallel_size)
        options = {"tensor-parallel-size": arguments.tensor_parallel_size, "data-parallel-size": copies}
        options |= {"max-model-len": arguments.max_model_len} if arguments.max_model_len else {}
        serve = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    prompt = arguments.system_prompt
    settings = run.Settings(
        model=arguments.model,
        tasks=arguments.task,
        python=arguments.lmms_eval,
        base_url=arguments.base_url,
        include=arguments.include_path,
        limit=arguments.limit,
        max_tokens=arguments.max_tokens,
        system_prompt=Path(prompt).read_text(encoding="utf-8").strip() if os.path.isfile(prompt) else prompt,
        judge_url=arguments.judge_url,
        judge_model=arguments.judge_model,
        serve=serve,
        max_concurrency=arguments.max_concurrency,
        max_retries=arguments.max_retries,
        timeout_seconds=arguments.timeout,
        max_refused=arguments.max_refused,
    )
    found = run.run(settings, arguments.out)
    if arguments.json:
        foreign.say_json(found)
        return 0
    for metrics in found:
        terminal.show_metrics(metrics)
        foreign.say(f"{arguments.out / metrics['name']}\n")
    if len(found) > 1:
        terminal.show_summary(found)
    return 0
