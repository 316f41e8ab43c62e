# SPDX-License-Identifier: Apache-2.0
"""Run by ../bench_judge.py in lmms-eval's own Python: one evaluation of the task beside this file, prompts.jsonl in the working directory.

    PYTHON -P judge.py URL MODEL MAX_TOKENS IN_FLIGHT

The model is async_openai, the faster of lmms-eval's two clients for a server. The seconds it prints are those of generate_until: reading
and encoding the images, the requests, their answers; not the imports, the building of contexts, and the scoring.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(url: str, model: str, max_tokens: str, in_flight: str) -> None:
    from lmms_eval import evaluator
    from lmms_eval.models.chat.async_openai import AsyncOpenAIChat
    from lmms_eval.tasks import TaskManager

    client = AsyncOpenAIChat(model_version=model, base_url=url, api_key="none", num_cpus=int(in_flight))
    generate, answers, used = client.generate_until, [], []

    def timed(requests: list[Any]) -> list[Any]:
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
    print(json.dumps({"seconds": used[0], "tokens": sum(answer.token_counts.output_tokens for answer in answers)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
