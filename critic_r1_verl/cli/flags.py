# SPDX-License-Identifier: Apache-2.0
"""Flags that several commands share, and the objects made from them. Names follow vLLM and OpenAI where these have one."""

import argparse
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critic_r1_verl import foreign
from critic_r1_verl.verdict import THINK_TAGS

if TYPE_CHECKING:
    from critic_r1_verl.engines.base import Engine
    from critic_r1_verl.evaluate import Place, Settings


def command(commands: Any, name: str, run: Any, help: str, example: str, parents: Any = ()) -> argparse.ArgumentParser:
    """Add a command whose help ends with an example. run: a function of the arguments that returns the exit status."""
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
    """The argument type of a whole number of 1 or more."""
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")


def share(text: str) -> float:
    """The argument type of a number from 0 to 1."""
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")


def json_object(text: str) -> dict[str, Any]:
    """The argument type of a JSON object. The error does not show the text, which may hold a secret."""
    with suppress(ValueError, RecursionError):
        content = json.loads(text)
        json.dumps(content, allow_nan=False)
        if isinstance(content, dict):
            return content
    raise argparse.ArgumentTypeError("not a JSON object, such as '{\"top_k\": 20}'")


def engine() -> argparse.ArgumentParser:
    """The flags of the engine, which is a model in this process or a server, and of sampling."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--model", default="", metavar="M", help="folder or hub id of the model; with --base-url, its name on the server")
    flags.add_argument("--max-tokens", type=count, default=2048, metavar="N", help="limit for one generated text (default: %(default)s)")
    flags.add_argument("--top-p", type=float, default=1.0, metavar="P", help="nucleus sampling (default: %(default)s)")
    flags.add_argument("--seed", type=int, default=0, metavar="N", help="for sampling; repeats use the following seeds")
    flags.add_argument("--think-tags", nargs=2, default=THINK_TAGS, metavar=("OPEN", "CLOSE"), help="tags around the model's reasoning")
    flags.add_argument("--template", default="", metavar="T", help="prompt for pairs: a name in critic_r1_verl/prompts, or a text file")
    here = flags.add_argument_group("in this process (vLLM)")
    here.add_argument("--max-model-len", type=count, metavar="N", help="limit for prompt and generated text (default: that of the model)")
    here.add_argument("--tensor-parallel-size", type=count, default=1, metavar="N", help="GPUs for each copy of the model")
    here.add_argument("--data-parallel-size", type=count, metavar="N", help="copies of the model (default: as many as the GPUs allow)")
    server = flags.add_argument_group("on a server (OpenAI's chat completions; the key is read from OPENAI_API_KEY)")
    server.add_argument("--base-url", metavar="URL", help="root of the API, such as http://localhost:8000/v1")
    server.add_argument("--max-concurrency", type=count, default=64, metavar="N", help="requests in flight (default: %(default)s)")
    server.add_argument("--max-retries", type=int, default=7, metavar="N", help="retries of a failed request (default: %(default)s)")
    server.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="limit for one attempt (default: %(default)s)")
    server.add_argument(
        "--thought-opened", action="store_true", help="its chat template opens the think block and its texts begin inside, without the tag"
    )
    server.add_argument("--extra-body", type=json_object, default={}, metavar="JSON", help="more keys for each request; null removes a key")
    server.add_argument(
        "--max-refused", type=share, default=0.1, metavar="SHARE", help="requests that the server may refuse (default: %(default)s)"
    )
    return flags


def sets() -> argparse.ArgumentParser:
    """The flags for the sets to measure, and for the folder of the runs."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--data", type=Path, metavar="DIR", help="a data folder of `critic-r1 data build`; its test split is measured")
    flags.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME[:PATH]",
        help="a benchmark (vl_rewardbench, ...) and the folder, file or hub id to read it from (default: its own hub id), "
        "questions:FILE for questions of your own, or a .jsonl file of records; may be repeated",
    )
    flags.add_argument("--question-template", default="", metavar="T", help="prompt for questions: a name, or a text file")
    flags.add_argument("--out", type=Path, required=True, metavar="DIR", help="write each set to DIR/NAME/, or resume it there")
    flags.add_argument("--limit", type=count, default=0, metavar="N", help="use only N pairs and N questions per set, chosen by hash")
    flags.add_argument("--json", action="store_true", help="print the metrics as JSON instead of tables")
    return flags


def open_engine(arguments: argparse.Namespace) -> tuple["Engine", dict[str, Any]]:
    """The engine of these flags, and its settings for config.json. ValueError if flags are missing or contradict each other.

    One of these settings is thought_opened, true or missing: whether its texts begin inside a think block that the prompt opens.
    """
    if arguments.base_url:
        from critic_r1_verl.engines import secrets
        from critic_r1_verl.engines.openai_client import OpenAIEngine

        engine = OpenAIEngine(
            arguments.base_url,
            arguments.model,
            max_concurrency=arguments.max_concurrency,
            max_retries=arguments.max_retries,
            timeout_seconds=arguments.timeout,
            body=arguments.extra_body,
        )
        return engine, {"kind": "openai", "body": secrets.redacted(arguments.extra_body), **_thought(arguments.thought_opened)}
    if arguments.thought_opened:
        raise ValueError("--thought-opened is for --base-url: what the prompt of a model in this process opens is read from its template")
    if not arguments.model:
        raise ValueError("--model is missing: give the folder or hub id of a model, or --base-url URL for a server")
    if not (Path(arguments.model) / "config.json").is_file() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", arguments.model):
        raise ValueError(f"--model {arguments.model}: neither a folder with the config.json of a model nor a hub id (owner/name)")
    from critic_r1_verl import chat_template, devices, hub

    # Before the copies start, which then find it in the cache.
    folder = hub.fetch(arguments.model, "--model")
    try:
        opened = chat_template.opens_thought(chat_template.read(folder), tuple(arguments.think_tags))
    except ValueError as error:
        raise ValueError(f"--model {arguments.model}: its chat template cannot be rendered: {error}; correct it") from error
    num_gpus = devices.gpu_count()
    if not os.environ.get("VERL_PLATFORM") and not num_gpus:
        os.environ["VERL_PLATFORM"] = "cpu"
        foreign.say("no GPU here: the model runs on the CPU", stderr=True)
    copies = arguments.data_parallel_size or max(1, num_gpus // arguments.tensor_parallel_size)
    options = {"max_model_len": arguments.max_model_len, "tensor_parallel_size": arguments.tensor_parallel_size}
    from critic_r1_verl.engines.pool import EnginePool
    from critic_r1_verl.engines.vllm import VllmEngine

    made = EnginePool(copies, arguments.model, **options) if copies > 1 else VllmEngine(arguments.model, **options)
    return made, {"kind": "vllm", "max_model_len": arguments.max_model_len, **_thought(opened)}


@contextmanager
def prepared_sets(arguments: argparse.Namespace, limit: int) -> Iterator[list["Place"]]:
    """The sets of these flags, prepared before a model is loaded, so that their errors show first, and locked while the block runs."""
    from critic_r1_verl import evaluate

    places = evaluate.places(arguments.benchmark, arguments.data, arguments.out)
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(evaluate.prepared(place, limit))
        yield places


def start(arguments: argparse.Namespace, settings: "Settings") -> tuple["Engine", dict[str, Any], "Settings"]:
    """The engine of these flags and its settings for config.json, as from open_engine, and the settings of the run that fit it."""
    engine, facts = open_engine(arguments)
    return engine, facts, replace(settings, thought_opened=facts.get("thought_opened", False))


def _thought(opened: bool) -> dict[str, bool]:
    """Only said where it is so: most run folders were made without this setting."""
    return {"thought_opened": True} if opened else {}


def settings(arguments: argparse.Namespace, *, judging: float, answering: float, samples: int = 1, repeats: int = 1) -> "Settings":
    """The settings of a run. judging and answering: the temperatures of judgements and answers. ValueError for bad settings."""
    from critic_r1_verl.engines.base import Sampling
    from critic_r1_verl.evaluate import Settings

    def sampling(temperature: float, num_samples: int = 1) -> Sampling:
        top_p = arguments.top_p if temperature else 1.0
        return Sampling(arguments.max_tokens, temperature=temperature, top_p=top_p, seed=arguments.seed, samples=num_samples)

    opening, closing = arguments.think_tags
    question_template, limit = getattr(arguments, "question_template", ""), getattr(arguments, "limit", 0)
    found = Settings(
        judging=sampling(judging),
        answering=sampling(answering, samples),
        template=arguments.template,
        question_template=question_template,
        repeats=repeats,
        think_tags=(opening, closing),
        limit=limit,
        max_refused=arguments.max_refused,
    )
    # These raise the errors of templates and sampling before a model is loaded.
    found.critic(())
    found.policy()
    return found
