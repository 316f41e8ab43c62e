# SPDX-License-Identifier: Apache-2.0
"""What inside.py wrote about a task of lmms-eval, as a run folder (scoring/run.py): questions, greedy answers, config.json, metrics.json.

An item is right as far as lmms-eval's own score of it says. A failed request, which lmms-eval takes for an answer, is "refused" and wrong.
lmms-eval's aggregate is the official score; a note says where it differs from the mean over the items, and why.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import critic_r1_verl
from critic_r1_verl.data_folder import RECORDS
from critic_r1_verl.files import read_object, replacing, write_json
from critic_r1_verl.lines import Answer, encode
from critic_r1_verl.records import QuestionRecord, check_keys, write_jsonl
from critic_r1_verl.scoring.run import CONFIG, Metrics, Run, write_metrics

FOLDER, ASKED, RESPONSES, RESULTS, ITEMS = "lmms_eval", "asked.json", "responses.jsonl", "results.json", "items.jsonl"
AGAIN = "delete it and run the same command again, which asks only for missing answers"

# What stands in place of an answer if all attempts failed, and if a reply had no text (models/chat/async_openai.py).
_FAILED = re.compile(r"\[LMMS_EVAL_[A-Z_]+[^\]]*\] ?")
_NO_TEXT = 'Error: can only concatenate str (not "NoneType") to str'
_TYPES = {
    "task": str,
    "metric": str,
    "num_items": int,
    "num_docs": int,
    "aggregates": dict,
    "dataset": str,
    "sampling": dict,
    "version": str,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One line of items.jsonl. ValueError names a malformed key."""

    doc_id: int
    question: str
    media: list[str]
    target: str
    text: str
    answer: str
    score: float
    judge_error: str | None
    input_tokens: int | None
    output_tokens: int | None

    def __post_init__(self) -> None:
        if type(self.doc_id) is not int:
            raise ValueError(f"key 'doc_id': {self.doc_id!r:.80} is not an integer")
        for key in ("question", "target", "text", "answer", "judge_error"):
            if not isinstance(getattr(self, key), str) and not (key == "judge_error" and self.judge_error is None):
                raise ValueError(f"key {key!r}: {getattr(self, key)!r:.80} is not a string")
        if not isinstance(self.media, list) or not all(isinstance(each, str) for each in self.media):
            raise ValueError(f"key 'media': {self.media!r:.80} is not a list of strings")
        if type(self.score) not in (bool, int, float) or not 0 <= self.score <= 1:
            raise ValueError(f"key 'score': {self.score!r:.80} is not in [0, 1]; such a task cannot be read")

    @property
    def failure(self) -> str | None:
        """What the server said if the request failed, else None."""
        return _FAILED.sub("", self.text, count=1) if _FAILED.match(self.text) else None

    def record(self, task: str) -> QuestionRecord:
        """The question. Its media are known by their hashes alone: questions with the same ones are a group."""
        return QuestionRecord(
            images=(),
            question=self.question.strip() or "(no text)",
            answer=self.target.strip() or "(not logged)",
            source=f"lmms-eval: {task}",
            group="+".join(sorted({*self.media})),
            split="test",
            key=str(self.doc_id),
        )

    def line(self, task: str, model: str, max_tokens: Any) -> Answer:
        """The answer. max_tokens: the limit of its tokens, as far as it is known."""
        status, text, answer = "parsed", self.text, self.answer.strip()
        if self.failure is not None:
            status, text = "refused", self.failure
        elif not answer or self.text == _NO_TEXT:
            at_limit = type(max_tokens) is int and (self.output_tokens or 0) >= max_tokens
            status = "cut_short" if at_limit else "empty"
        score = self.score if status == "parsed" and not self.judge_error else 0
        return Answer(
            question_id=self.record(task).question_id,
            kind="greedy",
            sample=0,
            answer=answer if status == "parsed" else None,
            status=status,
            correct=bool(score) if score in (0, 1) else score,
            text=text,
            prompt_tokens=self.input_tokens,
            completion_tokens=self.output_tokens,
            model=model,
            template_sha="",
        )


def is_complete(run: Run, max_refused: float) -> bool:
    """Whether lmms-eval has finished the task of this run folder, and few enough requests failed."""
    if not (run.folder / FOLDER / RESULTS).is_file():
        return False
    items = list(_items(run))
    return all(len(failed) <= max_refused * len(items) for _, failed in _failed(items))


def bring_in(run: Run, asked: dict[str, Any], max_refused: float) -> Metrics:
    """Write the run folder from what inside.py wrote, and return the metrics. asked: the settings, as in asked.json.

    ValueError names file, line and key of what cannot be used, and what the server said if more than max_refused of the requests failed.
    """
    file = run.folder / FOLDER / RESULTS
    results = read_object(file, AGAIN)
    if wrong := [key for key, kind in _TYPES.items() if not isinstance(results.get(key), kind)]:
        raise ValueError(f"{file}: key {wrong[0]!r} is {results.get(wrong[0])!r:.80}, not {_TYPES[wrong[0]].__name__}; {AGAIN}")
    task, aggregates = results["task"], results["aggregates"]
    if strange := [name for name, value in aggregates.items() if type(value) not in (int, float)]:
        raise ValueError(f"{file}: key 'aggregates': {strange[0]!r} is {aggregates[strange[0]]!r:.80}, not a number; {AGAIN}")
    if task != run.name:
        raise ValueError(f"{file}: these are results of {task}, not of {run.name}; {AGAIN}")
    items = list(_items(run))
    if not items or len(items) != results["num_items"]:
        raise ValueError(f"{run.folder / FOLDER / ITEMS}: {len(items)} items, {RESULTS} says {results['num_items']}; {AGAIN}")
    for what, failed in _failed(items):
        if len(failed) > max_refused * len(items):
            raise ValueError(
                f"{task}: {len(failed)} of {len(items)} {what}, which is more than {100 * max_refused:g} % (--max-refused), for example: "
                f"{failed[0][0]}; the same command asks for these again"
            )
    max_tokens = results["sampling"].get("max_new_tokens")
    write_jsonl(run.folder / RECORDS, (item.record(task) for item in items))
    with replacing(run.folder / Answer.FILE) as temporary:
        temporary.write_bytes(b"".join(encode(item.line(task, asked["model"], max_tokens)) for item in items))
    groups = {name: value for name, value in aggregates.items() if name != results["metric"]}
    config = {
        "version": critic_r1_verl.__version__,
        "source": {"benchmark": task, "location": results["dataset"], "limit": asked["limit"]},
        "answer": asked | {"sampling": results["sampling"]},
        "lmms_eval": {
            "version": results["version"],
            "metric": results["metric"],
            "official": {"overall": aggregates.get(results["metric"])} | ({"groups": groups} if groups else {}),
            "notes": list(_notes(results, items, max_tokens)),
        },
    }
    write_json(run.folder / CONFIG, config)
    return write_metrics(run)


def _items(run: Run) -> Iterator[Item]:
    file = run.folder / FOLDER / ITEMS
    if not file.is_file():
        raise ValueError(f"{file}: no such file; {AGAIN.replace('it', RESULTS, 1)}")
    seen: dict[int, int] = {}
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            data = json.loads(text)
            check_keys(Item, data)
            item = Item(**data)
            if (first := seen.setdefault(item.doc_id, number)) != number:
                raise ValueError(f"key 'doc_id': document {item.doc_id} stands in line {first} too")
            # What a record or a line cannot hold is named here, with its place.
            item.line(run.name, "", None)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}:{number}: {error}; {AGAIN}") from error
        yield item


def _failed(items: list[Item]) -> list[tuple[str, list[tuple[str, float]]]]:
    """What failed: in words, and for each item the reason and the score that lmms-eval gave it nevertheless."""
    return [
        ("requests failed", [(item.failure, item.score) for item in items if item.failure is not None]),
        ("answers got no verdict of the judge", [(item.judge_error, item.score) for item in items if item.judge_error is not None]),
    ]


def _notes(results: dict[str, Any], items: list[Item], max_tokens: Any) -> Iterator[str]:
    """Remarks for the reader, without a full stop."""
    official = results["aggregates"].get(results["metric"])
    mean = sum(item.score for item in items) / len(items)
    yield f"graded by lmms-eval {results['version']}, metric {results['metric']}"
    for what, failed in _failed(items):
        if failed:
            scored = sum(score for _, score in failed)
            right = f" (lmms-eval counts {scored:g} of them as right)" if scored else ""
            yield f"{len(failed):,} of {len(items):,} {what} and count as wrong{right}, for example: {failed[0][0]}"
    if type(max_tokens) is int and (cut := sum((item.output_tokens or 0) >= max_tokens for item in items)):
        yield f"{cut:,} of {len(items):,} answers may be cut short, as they have {max_tokens:,} tokens, the limit (--max-tokens)"
    if official is None or abs(official - mean) > 1e-4:
        shown = "none" if official is None else f"{100 * official:.2f} %"
        yield f"lmms-eval's own aggregate is {shown}, the mean of its scores {100 * mean:.2f} %: it weighs the items, such as by category"
    if results["num_items"] != results["num_docs"]:
        yield f"{results['num_items']:,} items of the task's {results['num_docs']:,}"
