# SPDX-License-Identifier: Apache-2.0
"""Flags that several commands share, and what is made of them: one name for the same thing everywhere, the ecosystem's where it has one."""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from critic_r1_verl.engines.base import Engine
    from critic_r1_verl.evaluate import Settings


def command(commands: Any, name: str, run: Any, help: str, example: str, parents: Any = ()) -> argparse.ArgumentParser:
    """A command with an example at the end of its help; run(arguments) returns the exit status."""
    parser = commands.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        parents=parents,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {example}",
    )
    parser.set_defaults(run=run)
    return parser


def count(text: str) -> int:
    """A whole number of 1 or more."""
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")


def engine() -> argparse.ArgumentParser:
    """What answers requests: a model in this process, or a server; and how a text is sampled."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--model", default="", metavar="M", help="a model's folder or hub id; with --base-url, as the server calls it")
    flags.add_argument("--max-tokens", type=count, default=2048, metavar="N", help="of one text (default: %(default)s)")
    flags.add_argument("--top-p", type=float, default=1.0, metavar="P", help="nucleus sampling (default: %(default)s)")
    flags.add_argument("--seed", type=int, default=0, metavar="N", help="of sampling; repeats take the seeds that follow it")
    flags.add_argument(
        "--think-tags", nargs=2, default=("<think>", "</think>"), metavar=("OPEN", "CLOSE"), help="how the model marks its thought"
    )
    flags.add_argument("--template", default="", metavar="T", help="prompt of pairs: a name of critic_r1_verl/prompts, or a text file")
    here = flags.add_argument_group("in this process (vLLM)")
    here.add_argument("--max-model-len", type=count, metavar="N", help="tokens of prompt and text together (default: the model's)")
    here.add_argument("--tensor-parallel-size", type=count, default=1, metavar="N", help="GPUs of one copy of the model")
    here.add_argument("--data-parallel-size", type=count, metavar="N", help="copies of the model (default: as many as the GPUs allow)")
    server = flags.add_argument_group("on a server (OpenAI's chat completions; the key is read from OPENAI_API_KEY)")
    server.add_argument("--base-url", metavar="URL", help="the API's root, as http://localhost:8000/v1")
    server.add_argument("--max-concurrency", type=count, default=64, metavar="N", help="requests in flight (default: %(default)s)")
    server.add_argument("--max-retries", type=int, default=7, metavar="N", help="of a request that got lost (default: %(default)s)")
    server.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="of one request (default: %(default)s)")
    server.add_argument("--extra-body", type=json.loads, default={}, metavar="JSON", help="more keys of each request; null removes one")
    return flags


def sets() -> argparse.ArgumentParser:
    """What is measured, and where the run is written."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--data", type=Path, metavar="DIR", help="a data folder of `critic-r1 data build`: its test split")
    flags.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME[:PATH]",
        help="a benchmark (vl_rewardbench, ...) and the folder, file or hub id to read it from (none: its own hub id), "
        "or a .jsonl file of records; may be repeated",
    )
    flags.add_argument("--question-template", default="", metavar="T", help="prompt of questions: a name, or a text file")
    flags.add_argument("--out", type=Path, required=True, metavar="DIR", help="DIR/NAME/ is written for each set, and resumed")
    flags.add_argument("--limit", type=count, default=0, metavar="N", help="only N pairs and N questions of each set, drawn by hash")
    flags.add_argument("--json", action="store_true", help="print the metrics as JSON instead of tables")
    return flags


def open_engine(arguments: argparse.Namespace) -> tuple["Engine", dict[str, Any]]:
    """The engine that the flags ask for, and what of it belongs to the settings of a run. ValueError for flags that do not go together."""
    if arguments.base_url:
        from critic_r1_verl.engines.openai_client import OpenAIEngine

        if not isinstance(arguments.extra_body, dict):
            raise ValueError(f"--extra-body {arguments.extra_body!r}: not a JSON object")
        options = {
            "max_concurrency": arguments.max_concurrency,
            "max_retries": arguments.max_retries,
            "timeout_seconds": arguments.timeout,
        }
        engine = OpenAIEngine(arguments.base_url, arguments.model, body=arguments.extra_body, **options)
        return engine, {"kind": "openai", "body": arguments.extra_body}
    if not arguments.model:
        raise ValueError("--model is missing: a model's folder or hub id, or --base-url URL for a server")
    if not (Path(arguments.model) / "config.json").is_file() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", arguments.model):
        raise ValueError(f"--model {arguments.model}: neither a folder with a model's config.json nor a hub id (owner/name)")
    from critic_r1_verl import devices

    num_gpus = devices.gpu_count()
    if not os.environ.get("VERL_PLATFORM") and not num_gpus:
        os.environ["VERL_PLATFORM"] = "cpu"
        print("no GPU here: the model runs on the CPU", file=sys.stderr, flush=True)
    copies = arguments.data_parallel_size or max(1, num_gpus // arguments.tensor_parallel_size)
    options = {"max_model_len": arguments.max_model_len, "tensor_parallel_size": arguments.tensor_parallel_size}
    from critic_r1_verl.engines.pool import EnginePool
    from critic_r1_verl.engines.vllm import VllmEngine

    made = EnginePool(copies, arguments.model, **options) if copies > 1 else VllmEngine(arguments.model, **options)
    return made, {"kind": "vllm", "max_model_len": arguments.max_model_len}


def settings(arguments: argparse.Namespace, *, judging: float, answering: float, samples: int = 1, repeats: int = 1) -> "Settings":
    """The settings of a run with these temperatures of judgements and of answers. ValueError if they contradict each other."""
    from critic_r1_verl.engines.base import Sampling
    from critic_r1_verl.evaluate import Settings

    def sampling(temperature: float, number: int = 1) -> Sampling:
        top_p = arguments.top_p if temperature else 1.0
        return Sampling(arguments.max_tokens, temperature=temperature, top_p=top_p, seed=arguments.seed, samples=number)

    opening, closing = arguments.think_tags
    question_template, limit = getattr(arguments, "question_template", ""), getattr(arguments, "limit", 0)
    found = Settings(
        sampling(judging), sampling(answering, samples), arguments.template, question_template, repeats, (opening, closing), limit
    )
    # What is wrong with a template or the sampling shows here, before a model is loaded.
    found.critic(())
    found.policy()
    return found
