# SPDX-License-Identifier: Apache-2.0
"""What runs in lmms-eval's own Python (version 0.7.3 was read): its tasks, asked of a server, with its own score of each item.

    PYTHON -P inside.py

run.py writes two lines of JSON to stdin: what to measure and, once this program is ready, the server. Each line of stdout is a message:
{"ready"}, {"answered", "of"}, {"done": task} or {"error"}. All that lmms-eval prints goes to stderr. Into the folder of a task go

    responses.jsonl   one line an answer, as it arrives, so that the next run asks only for what is missing; failed requests are not in it
    items.jsonl       one line an item: doc_id, question, media, target, text, answer, score, judge_error, input_tokens, output_tokens
    results.json      written last: the metric that the scores are of, and lmms-eval's own aggregates of all items

The score of an item is the task's own aggregation of this item alone, so that it is lmms-eval's number whatever form the metric has: MMMU
compares an answer only when it aggregates. This file imports nothing of its package, which lmms-eval's Python may not have.
"""

import copy
import ctypes
import difflib
import hashlib
import importlib.metadata
import inspect
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

OWN = "critic_r1"
HOPELESS = 32
"""After so many failed attempts without any answer, the server is taken to be down."""
_JUDGES = re.compile(r"llm_judge|get_server|Verifier|chat_response|OPENAI_API|API_TYPE|requests\.post")


class Judge:
    """Sees what lmms-eval hides: a call to a judge that failed makes the item wrong, without a trace in the results."""

    def __init__(self, given: bool) -> None:
        from lmms_eval.llm_judge.providers.openai import OpenAIProvider

        evaluate = OpenAIProvider.evaluate
        self.of_item = threading.local()

        def watched(provider: Any, request: Any) -> Any:
            if not given:
                # Not an Exception, which tasks catch.
                raise SystemExit("a judge is asked; give --judge-url and --judge-model")
            try:
                reply = evaluate(provider, request)
            except Exception as error:
                self.of_item.error = hidden(str(error), os.environ["OPENAI_API_KEY"])[:300]
                # Some tasks print it.
                raise RuntimeError(self.of_item.error) from None
            self.of_item.error = None if reply.content else "the judge wrote nothing"
            return reply

        OpenAIProvider.evaluate = watched


def load(names: list[str], include: list[str], judge_given: bool) -> tuple[Any, dict[str, Any]]:
    """lmms-eval's index of tasks, and the tasks by name, with their data. ValueError as of check()."""
    from lmms_eval.tasks import TaskManager

    # Of two tasks with the same name lmms-eval would take its own; and reading its 2,000 takes ten seconds.
    manager = TaskManager("WARNING", include_path=include, include_defaults=False, model_name="async_openai")
    if not manager.task_index.keys() >= {*names}:
        manager = TaskManager("WARNING", include_path=include, model_name="async_openai")
    for name in names:
        check(name, manager, judge_given)
    return manager, {name: manager.load_task_or_group([name], "chat")[name] for name in names}


def check(name: str, manager: Any, judge_given: bool) -> None:
    """ValueError unless there is such a task, and it can be measured; before its data are downloaded."""
    from lmms_eval.utils import load_yaml_config

    entry = manager.task_index.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, manager.all_subtasks, 5, 0.5)
        raise ValueError(f"lmms-eval has no task {name!r}{', but ' + ', '.join(near) if near else ''}; --include-path DIR adds tasks")
    if entry["type"] not in ("task", "python_task"):
        members = [other for other in manager.all_subtasks if other.startswith(f"{name}_")][:8]
        raise ValueError(f"{name!r} is a group of lmms-eval's tasks; name its tasks, such as {', '.join(members)}")
    config = load_yaml_config(entry["yaml_path"])
    if (kind := config.get("output_type", "generate_until")) != "generate_until":
        raise ValueError(f"{name}: its output type is {kind}; only tasks with texts as answers (generate_until) can be asked of a server")
    if not judge_given and asks_judge(config.get("process_results"), set()):
        raise ValueError(f"{name}: a judge reads its answers; give --judge-url and --judge-model (docs/measuring.md)")


def asks_judge(function: Any, seen: set[int]) -> bool:
    """Whether a function, or one of the tasks' own that it calls, asks a language model. seen: the functions that need no second look."""
    if not inspect.isfunction(function) or id(function) in seen:
        return False
    seen.add(id(function))
    if _JUDGES.search(inspect.getsource(function)):
        return True
    for used in map(function.__globals__.get, function.__code__.co_names):
        if inspect.isfunction(used) and used.__module__.startswith((function.__module__, "lmms_eval.tasks")) and asks_judge(used, seen):
            return True
        # An object of the task's, such as MathVista's evaluator.
        kind = type(used)
        if kind.__module__.startswith("lmms_eval.tasks") and _JUDGES.search(inspect.getsource(sys.modules[kind.__module__])):
            return True
    return False


def client(server: dict[str, Any], journal: Path, tell: Callable[..., None]) -> Any:
    """lmms-eval's client for a server, with a journal."""
    from lmms_eval.api.instance import TokenCounts
    from lmms_eval.models.chat.async_openai import AsyncOpenAIChat
    from lmms_eval.protocol import ChatMessages

    journaled: dict[int, dict[str, Any]] = {}
    for text in journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else ():
        # What a kill cut short is no answer.
        with suppress(ValueError):
            line = json.loads(text)
            journaled[line["asked"]["doc_id"]] = line

    class Journaled(AsyncOpenAIChat):
        num_answered = num_failed = 0

        def generate_until(self, requests: list[Any]) -> list[Any]:
            self.asked: dict[int, dict[str, Any]] = {}
            self.num_all = len(requests)
            found = super().generate_until(requests)
            for result in found:
                result.text = hidden(result.text, server["api_key"])
            self.texts = {request.doc_id: result.text for request, result in zip(requests, found, strict=True)}
            return found

        async def maybe_forward_with_tool(self, request: Any, idx: int) -> tuple[str, int, Any]:
            _, to_messages, _, doc_id, task, split = request.args
            messages = ChatMessages(messages=to_messages(self.task_dict[task][split][doc_id]))
            texts = [part.text for message in messages.messages for part in message.content if part.type == "text"]
            media = [fingerprint(thing) for kind in messages.extract_media() for thing in kind]
            asked = self.asked[doc_id] = {"doc_id": doc_id, "question": "\n".join(texts), "media": media}
            line = journaled.get(doc_id)
            if not line or line["asked"] != asked:
                try:
                    text, _, tokens = await super().maybe_forward_with_tool(request, idx)
                except Exception as error:
                    self.num_failed += 1
                    if not self.num_answered and self.num_failed >= HOPELESS:
                        raise SystemExit(f"{self.num_failed} attempts failed and none succeeded: {error}") from None
                    raise
                line = {"asked": asked, "text": hidden(text, server["api_key"]), "tokens": [tokens.input_tokens, tokens.output_tokens]}
                with journal.open("a", encoding="utf-8") as stream:
                    stream.write("\n" + json.dumps(line))
            self.num_answered += 1
            tell(answered=self.num_answered, of=self.num_all)
            return line["text"], idx, TokenCounts(*line["tokens"])

    return Journaled(**server)


def fingerprint(thing: Any) -> str:
    """The sha256 of an image's pixels, or of the name of anything else."""
    content = f"{thing.mode} {thing.size} ".encode() + thing.tobytes() if hasattr(thing, "tobytes") else str(thing).encode()
    return hashlib.sha256(content).hexdigest()


def hidden(text: str, *keys: str) -> str:
    """The text without these keys, which a server may repeat."""
    for key in keys:
        text = text.replace(key, "***") if len(key) >= 8 else text
    return text


def scored(task: Any, judge: Judge) -> Callable[..., dict[str, Any]]:
    """The task's process_results, which also gives each item its own score by each metric, and what its judge failed with."""
    process = task.process_results
    # A submission writes a file and gives no number.
    aggregations = {name: function for name, function in task.aggregation().items() if "submission" not in name}

    def alone(function: Any, value: Any) -> float | None:
        named = {"args": task.args} if "args" in inspect.signature(function).parameters else {}
        # Some change what they are given.
        with suppress(Exception):
            return float(function([copy.deepcopy(value)], **named))
        # MathVista's says None where it means 0.
        return 0.0 if function.__name__ == "mathvista_aggregate_results" else None

    def process_results(doc: Any, results: list[Any]) -> dict[str, Any]:
        judge.of_item.error = None
        found = process(doc, results)
        scores = {name: alone(aggregations[name], value) for name, value in found.items() if name in aggregations}
        return {**found, OWN: {"scores": scores, "judge_error": judge.of_item.error}}

    return process_results


def chosen(name: str, metrics: list[str], samples: list[dict[str, Any]]) -> tuple[str, list[float]]:
    """The first metric of the task that gives every item a number, and these numbers as shares; ValueError if there is none."""
    for metric in metrics:
        scores = [sample[OWN]["scores"].get(metric) for sample in samples]
        if scores and None not in scores:
            return metric, [score / 100 for score in scores] if {*scores} <= {0, 100} else scores
    raise ValueError(f"{name}: none of its metrics ({', '.join(metrics)}) gives each of its {len(samples)} items a number")


def measure(name: str, task: Any, manager: Any, judge: Judge, server: dict[str, Any], settings: dict[str, Any], tell: Any) -> None:
    """One task, from its questions to results.json."""
    from lmms_eval import evaluator
    from lmms_eval.__main__ import parse_eval_args

    folder = Path(settings["folders"][name])
    (folder / "results.json").unlink(missing_ok=True)
    asking = client(server, folder / "responses.jsonl", tell)
    task.process_results = scored(task, judge)
    sys.argv = ["lmms-eval", "--tasks", name, "--output_path", str(folder), "--log_samples"]
    found = evaluator.simple_evaluate(
        asking,
        tasks=[task],
        task_manager=manager,
        gen_kwargs=f"max_new_tokens={settings['max_tokens']}" if settings["max_tokens"] else None,
        limit=settings["limit"] or None,
        bootstrap_iters=0,
        # In one thread, a task that guesses at random guesses alike in each run.
        process_docs_parallel=8 if asks_judge(task.config.process_results, set()) else 1,
        cli_args=parse_eval_args()[1],
    )
    samples, config, aggregates = found["samples"][name], found["configs"][name], found["results"][name]
    metric, scores = chosen(name, [*task.aggregation()], samples)
    whole = 100 if scores != [sample[OWN]["scores"][metric] for sample in samples] else 1
    with (folder / "items.jsonl").open("w", encoding="utf-8") as stream:
        for sample, score in zip(samples, scores, strict=True):
            stream.write(json.dumps(item(sample, score, asking)) + "\n")
    # A key is "metric,filter"; a metric that no item has is an empty list.
    numbers = {key.split(",")[0]: value for key, value in aggregates.items() if isinstance(value, int | float)}
    content = {
        "task": name,
        "metric": metric,
        "num_items": len(samples),
        "num_docs": found["n-samples"][name]["original"],
        "aggregates": {key: numbers[key] / whole for key in task.aggregation() if key in numbers},
        "dataset": config["dataset_path"],
        "sampling": config["generation_kwargs"],
        "version": importlib.metadata.version("lmms_eval"),
    }
    (folder / "results.tmp").write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    (folder / "results.tmp").replace(folder / "results.json")
    tell(done=name)


def item(sample: dict[str, Any], score: float, asking: Any) -> dict[str, Any]:
    tokens = (sample["token_counts"] or [None])[0] or {}
    return {
        **asking.asked[sample["doc_id"]],
        "target": str(sample["target"]),
        "text": asking.texts[sample["doc_id"]],
        "answer": str(sample["filtered_resps"][0]),
        "score": score,
        "judge_error": sample[OWN]["judge_error"],
        **{key: tokens.get(key) for key in ("input_tokens", "output_tokens")},
    }


def message(error: BaseException) -> str:
    """The text of an error in one line; of one that tenacity wrapped, the error itself."""
    error = error.last_attempt.exception() or error if hasattr(error, "last_attempt") else error
    kind = "" if isinstance(error, ValueError | SystemExit) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())[:1000]


def main() -> None:
    # PR_SET_PDEATHSIG, SIGKILL: this process ends with the one that started it.
    ctypes.CDLL(None).prctl(1, 9)
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    keys = [os.environ["OPENAI_API_KEY"]]

    def tell(**content: Any) -> None:
        messages.write(json.dumps(content) + "\n")
        messages.flush()

    try:
        from loguru import logger

        logger.configure(patcher=lambda record: record.update({"message": hidden(record["message"], *keys)}))
        settings = json.loads(sys.stdin.readline())
        judge = Judge(settings["judge"])
        manager, tasks = load(settings["tasks"], settings["include"], settings["judge"])
        tell(ready=True)
        server = json.loads(sys.stdin.readline())
        keys.append(server["api_key"])
        for name, task in tasks.items():
            measure(name, task, manager, judge, server, settings, tell)
    except BaseException as error:
        tell(error=hidden(message(error), *keys))
        raise


if __name__ == "__main__":
    main()
