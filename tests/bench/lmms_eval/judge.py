# SPDX-License-Identifier: Apache-2.0
"""Run by ../bench_judge.py in lmms-eval's own Python: one evaluation of the task beside this file, prompts.jsonl in the working directory.

    PYTHON -P judge.py URL|vllm MODEL MAX_TOKENS AT_ONCE

A URL is asked by async_openai, the faster of lmms-eval's two clients for a server, with AT_ONCE requests in flight; vllm is lmms-eval's
model of that name in this process, with batches of AT_ONCE. The seconds it prints are those of generate_until: reading and encoding the
images, the requests, their answers; not the imports, the building of contexts, and the scoring.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def on_a_server(url: str, model: str, at_once: int) -> Any:
    from lmms_eval.models.chat.async_openai import AsyncOpenAIChat

    return AsyncOpenAIChat(model_version=model, base_url=url, api_key="none", num_cpus=at_once)


def in_process(model: str, max_tokens: int, at_once: int) -> Any:
    """The same engine settings as ours; what its texts took is counted in client.num_tokens, which lmms-eval itself leaves out."""
    from lmms_eval.models.chat.vllm import VLLM

    engine = {"dtype": "float32", "enforce_eager": True, "max_num_batched_tokens": 1024, "max_num_seqs": 256}
    # Its own limit of tokens holds where it is the larger one.
    client = VLLM(model=model, batch_size=at_once, max_new_tokens=max_tokens, trust_remote_code=False, **engine)
    chat, client.num_tokens = client.client.chat, 0

    def counted(*arguments: Any, **named: Any) -> list[Any]:
        outputs = chat(*arguments, **named)
        client.num_tokens += sum(len(output.outputs[0].token_ids) for output in outputs)
        return outputs

    client.client.chat = counted
    return client


def main(place: str, model: str, max_tokens: str, at_once: str) -> None:
    from lmms_eval import evaluator
    from lmms_eval.tasks import TaskManager

    client = in_process(model, int(max_tokens), int(at_once)) if place == "vllm" else on_a_server(place, model, int(at_once))
    generate, answers, used = client.generate_until, [], []

    def timed(requests: list[Any]) -> list[Any]:
        if place == "vllm":
            # Ours is measured after a first turn.
            generate(requests[:8])
            client.client.reset_prefix_cache()
            client.client.reset_mm_cache()
            client.num_tokens = 0
        start = time.perf_counter()
        answers.extend(generate(requests))
        used.append(time.perf_counter() - start)
        return answers

    client.generate_until = timed
    tasks = TaskManager(include_path=str(Path(__file__).parent), include_defaults=False, model_name="async_openai")
    evaluator.simple_evaluate(
        client, tasks=["critic_pairs"], task_manager=tasks, gen_kwargs=f"max_new_tokens={max_tokens}", log_samples=False
    )
    # lmms-eval turns a request that failed into an answer, and goes on.
    if failed := [answer.text for answer in answers if answer.text.startswith("[LMMS_EVAL_")]:
        raise RuntimeError(f"{len(failed)} of {len(answers)} requests failed: {failed[0]}")
    tokens = client.num_tokens if place == "vllm" else sum(answer.token_counts.output_tokens for answer in answers)
    print(json.dumps({"seconds": used[0], "tokens": tokens}))


if __name__ == "__main__":
    main(*sys.argv[1:])
