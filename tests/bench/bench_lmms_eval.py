# SPDX-License-Identifier: Apache-2.0
"""Pairs a second of lmms-eval judging our prompts in both orders on a running vLLM server, beside a plain asyncio loop over that server.

    python tests/bench/bench_lmms_eval.py --lmms-eval PYTHON --base-url URL --model NAME --pairs FILE [--runs 3] [--json]

PYTHON is that of an environment with lmms-eval (0.7.3 was measured); without it this says what to install and ends. The server must be one
whose caches can be emptied: VLLM_SERVER_DEV_MODE=1. FILE is a test_pairs.jsonl with its images beside it.

lmms-eval runs its async_openai model, the faster of its two clients for a server, with IN_FLIGHT requests in flight (its own default, half
the cores, is one request at a time on two cores). Its seconds are those of generate_until: reading and encoding the images, the requests,
their answers. Not in them: the server's start, imports, the building of contexts and the scoring of answers ("whole" has the last two).
"""

import argparse
import asyncio
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

IN_FLIGHT = 64
MAX_TOKENS = 64
TASK = Path(__file__).parent / "lmms_eval"
INSTALL = "lmms-eval: not measured; install it in an environment of its own (pip install lmms-eval==0.7.3) and give --lmms-eval its Python"


def lmms_eval_seconds(python: Path, base_url: str, model: str, pairs_file: Path, max_tokens: int = MAX_TOKENS) -> float:
    """Wall seconds that lmms-eval takes for the requests of all pairs in both orders, on a server with empty caches."""
    return run_lmms_eval(python, base_url, model, pairs_file, max_tokens)["seconds"]


def prompts_of(pairs_file: Path) -> list[dict[str, str]]:
    """{image, text, preferred} for each pair and order; the image stands before the text. ValueError for a pair with several images."""
    from critic_r1_verl import prompts
    from critic_r1_verl.judge import ORDERS
    from critic_r1_verl.records import PairRecord, read_jsonl

    template, found = prompts.load("critic_short"), []
    for pair in read_jsonl(pairs_file, PairRecord):
        if len(pair.images) > 1:
            raise ValueError(f"{pairs_file}: pair {pair.pair_id} has {len(pair.images)} images; give pairs with one image each")
        image = str((pairs_file.parent / pair.images[0].path).resolve())
        for order in ORDERS:
            text = prompts.critic_text(pair, order, template).removeprefix("<image>")
            found.append({"image": image, "text": text, "preferred": (pair if order == "12" else pair.swap()).preferred})
    return found


def empty_caches(base_url: str) -> None:
    """Without this a second run would find its prompts and pictures in the server."""
    for cache in ("prefix", "mm", "encoder"):
        url = f"{base_url.removesuffix('/v1')}/reset_{cache}_cache"
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=60).close()
        except urllib.error.HTTPError as error:
            raise ValueError(f"{url}: {error}; start the server with VLLM_SERVER_DEV_MODE=1, so that its caches can be emptied") from error


def run_lmms_eval(python: Path, base_url: str, model: str, pairs_file: Path, max_tokens: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as temporary:
        prompts_file = Path(temporary, "prompts.jsonl")
        prompts_file.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts_of(pairs_file)))
        empty_caches(base_url)
        # -P: the folder of this file, which holds one named lmms_eval, stays off the path.
        command = [str(python), "-P", __file__, "--inside", "--base-url", base_url, "--model", model, "--max-tokens", str(max_tokens)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": temporary}
        done = subprocess.run(command, cwd=temporary, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"lmms-eval ended with status {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def inside(base_url: str, model: str, max_tokens: int) -> dict[str, float]:
    """One evaluation, in lmms-eval's own Python."""
    from lmms_eval import evaluator
    from lmms_eval.models.chat.async_openai import AsyncOpenAIChat
    from lmms_eval.tasks import TaskManager

    client = AsyncOpenAIChat(model_version=model, base_url=base_url, api_key="none", num_cpus=IN_FLIGHT)
    generate, answers, used = client.generate_until, [], []

    def timed(requests: list[Any]) -> list[Any]:
        start = time.perf_counter()
        answers.extend(generate(requests))
        used.append(time.perf_counter() - start)
        return answers

    client.generate_until = timed
    tasks = TaskManager(include_path=str(TASK), include_defaults=False, model_name="async_openai")
    start = time.perf_counter()
    result = evaluator.simple_evaluate(
        client, tasks=["critic_pairs"], task_manager=tasks, gen_kwargs=f"max_new_tokens={max_tokens}", log_samples=False
    )
    whole = time.perf_counter() - start
    # lmms-eval turns a request that failed into an answer, and goes on.
    if failed := [answer.text for answer in answers if answer.text.startswith("[LMMS_EVAL_")]:
        raise RuntimeError(f"{len(failed)} of {len(answers)} requests failed: {failed[0]}")
    (seconds,) = used
    return {
        "seconds": seconds,
        "whole_seconds": whole,
        "tokens": sum(answer.token_counts.output_tokens for answer in answers),
        "right": result["results"]["critic_pairs"]["right,none"],
    }


async def run_plain_loop(base_url: str, model: str, pairs_file: Path, max_tokens: int) -> dict[str, float]:
    """The yardstick: IN_FLIGHT requests in flight, nothing done with the answers but counting their tokens."""
    import aiohttp

    def body(prompt: dict[str, str]) -> dict[str, Any]:
        url = f"data:image/png;base64,{base64.b64encode(Path(prompt['image']).read_bytes()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt["text"]}]
        return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": max_tokens, "temperature": 0}

    async def ask(prompt: dict[str, str]) -> int:
        async with session.post(f"{base_url}/chat/completions", json=body(prompt), raise_for_status=True) as answer:
            return (await answer.json())["usage"]["completion_tokens"]

    wanted = prompts_of(pairs_file)
    empty_caches(base_url)
    start = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        tokens = sum(await asyncio.gather(*map(ask, wanted)))
    return {"seconds": time.perf_counter() - start, "tokens": tokens}


def compare(python: Path, base_url: str, model: str, pairs_file: Path, max_tokens: int, num_runs: int) -> dict[str, Any]:
    theirs, plain = [], []
    # They take turns, so that a busy machine disturbs both; the first turn warms the server up.
    for _ in range(num_runs + 1):
        theirs.append(run_lmms_eval(python, base_url, model, pairs_file, max_tokens))
        plain.append(asyncio.run(run_plain_loop(base_url, model, pairs_file, max_tokens)))
    num_pairs = len(prompts_of(pairs_file)) // 2
    rates = {name: [num_pairs / run["seconds"] for run in runs[1:]] for name, runs in (("lmms_eval", theirs), ("plain_loop", plain))}
    return {
        "pairs": num_pairs,
        "in_flight": IN_FLIGHT,
        "lmms_eval_pairs_per_second": statistics.median(rates["lmms_eval"]),
        "plain_loop_pairs_per_second": statistics.median(rates["plain_loop"]),
        "lmms_eval_whole_pairs_per_second": statistics.median(num_pairs / run["whole_seconds"] for run in theirs[1:]),
        "lmms_eval_tokens": theirs[-1]["tokens"],
        "plain_loop_tokens": plain[-1]["tokens"],
        "lmms_eval_right": theirs[-1]["right"],
        "lmms_eval_runs": rates["lmms_eval"],
        "plain_loop_runs": rates["plain_loop"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmms-eval", type=Path, metavar="PYTHON")
    parser.add_argument("--base-url", help="such as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", help="the name under which the server knows it")
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(inside(arguments.base_url, arguments.model, arguments.max_tokens)))
        return 0
    if arguments.lmms_eval is None:
        print(INSTALL)
        return 0
    if not (arguments.base_url and arguments.model and arguments.pairs):
        parser.error("--lmms-eval needs --base-url, --model and --pairs too")
    base_url = arguments.base_url.rstrip("/")
    found = compare(arguments.lmms_eval, base_url, arguments.model, arguments.pairs, arguments.max_tokens, arguments.runs)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    for name, value in found.items():
        shown = " ".join(f"{each:.3g}" for each in (value if isinstance(value, list) else [value]))
        print(f"{name.replace('_', ' '):<34} {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
