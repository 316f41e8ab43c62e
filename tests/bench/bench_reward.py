# SPDX-License-Identifier: Apache-2.0
"""Responses per second: compute_score, with the very parser of training, against the official reward's way, in one run.

Two styles are measured: verdicts, and plain answers to questions (numbers, options and words, half of them right) after a short thought.

    python tests/bench/bench_reward.py [--json]

Both grade the same texts: a reasoned thought and a boxed verdict, half of them right, the rest wrong or malformed ("all"), and each kind
apart. The two take turns and are timed by the processor seconds they use, so that a busy machine changes little; each figure is a
median over the turns.

The official way, from the facts of its released code: format is one regular expression over the whole text, accuracy is mathruler's
last box compared by mathruler's grader, overall is 0.9 accuracy + 0.1 format.
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from functools import partial

from mathruler.grader import extract_boxed_content, grade_answer

from critic_r1_verl.reward import compute_score

CHARS_PER_TOKEN = 4
NUM_TOKENS = (200, 2_000)
NUM_TURNS = 15
NUM_THOUGHTS = 8
LABELS = ("1", "2", "tie")
SENTENCES = (
    "The image shows a kitchen table with two plates and a blue cup standing at its left edge.",
    "Response 1 says that the cup is on the right, which the picture contradicts.",
    "Response 2 places it correctly, but it counts three plates where there are two.",
    "The question asks for the sum $a + b$, so I read both labels: $a = 14$ and $b = \\frac{3}{2}$.",
    "Adding them gives 15.5, and only one of the responses arrives at that number.",
    "Its explanation is shorter, yet every step of it can be checked against the figure.",
    "The other one (written first) guesses a colour that cannot be seen from this angle.",
    "Weighing the two errors, the miscounted plate matters less than the wrong side.",
)
OFFICIAL_FORMAT = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
PLAIN_ANSWERS = (
    ("7", "12", "-5", "3.5", "1000"),
    ("A", "B", "C", "D"),
    ("left", "a triangle", "blue", "yes"),
    ("12 cm", "30^\\circ", "\\frac{1}{2}"),
)
Scorer = Callable[[str, str], object]


def official(text: str, label: str) -> dict[str, float]:
    """The official reward of one response."""
    form = 1.0 if OFFICIAL_FORMAT.fullmatch(text) else 0.0
    acc = 1.0 if grade_answer(extract_boxed_content(text), label) else 0.0
    return {"overall": 0.9 * acc + 0.1 * form, "format": form, "accuracy": acc}


def ours(text: str, label: str, style: str = "verdict") -> dict[str, float]:
    """The reward as verl calls it."""
    return compute_score(data_source="bench", solution_str=text, ground_truth=label, extra_info={"style": style})


def cases(num_tokens: int) -> dict[str, list[tuple[str, str]]]:
    """(text, label) pairs of about num_tokens tokens, by kind; as many right ones as wrong and malformed ones together."""
    kinds: dict[str, list[tuple[str, str]]] = {"right": [], "wrong": [], "malformed": []}
    for number in range(NUM_THOUGHTS):
        thought, sentence = "", number
        while len(thought) < num_tokens * CHARS_PER_TOKEN - 40:
            thought += SENTENCES[sentence % len(SENTENCES)] + (" " if sentence % 3 else "\n\n")
            sentence += 1
        label, other = LABELS[number % 3], LABELS[(number + 1) % 3]
        broken = (
            f"<think>{thought}</think> So the verdict is clear.",
            f"<think>{thought}",
            f"{thought} \\boxed{{{label}}}",
            f"<think>{thought}</think> \\boxed{{{label}",
            f"<think>{thought}</think> \\boxed{{{label}}} or rather \\boxed{{{other}}}",
        )
        kinds["right"] += [(f"<think>{thought}</think>\n\n\\boxed{{{label}}}", label)] * 2
        kinds["wrong"].append((f"<think>{thought}</think>\n\n\\boxed{{{other}}}", label))
        kinds["malformed"].append((broken[number % len(broken)], label))
    return kinds


def answers() -> list[tuple[str, str]]:
    """(text, truth) pairs of plain answers: each truth once with itself in the box, once with another answer of its kind."""
    thought = " ".join(SENTENCES[:4])
    return [
        (f"<think>{thought}</think>\n\n\\boxed{{{answer}}}", kind[number])
        for kind in PLAIN_ANSWERS
        for number in range(len(kind))
        for answer in (kind[number], kind[number - 1])
    ]


def seconds(scorer: Scorer, pairs: list[tuple[str, str]], num_rounds: int) -> float:
    """Processor seconds that one response takes."""
    start = time.process_time()
    for _ in range(num_rounds):
        for text, label in pairs:
            scorer(text, label)
    return (time.process_time() - start) / (num_rounds * len(pairs))


def compare(pairs: list[tuple[str, str]], style: str = "verdict") -> dict[str, float]:
    """Median responses per second of both, and the median ratio of the turns."""
    own_way = partial(ours, style=style)
    turns = [(seconds(own_way, pairs, 20), seconds(official, pairs, 1)) for _ in range(NUM_TURNS)]
    return {
        "ours_per_second": round(1 / statistics.median(own for own, _ in turns)),
        "official_per_second": round(1 / statistics.median(theirs for _, theirs in turns)),
        "ratio": round(statistics.median(theirs / own for own, theirs in turns), 1),
    }


def measure() -> dict[str, dict[str, dict[str, float]]]:
    """tokens -> kind of text ("all" first) -> figures of compare."""
    results = {}
    for num_tokens in NUM_TOKENS:
        kinds = cases(num_tokens)
        everything = [pair for pairs in kinds.values() for pair in pairs]
        results[str(num_tokens)] = {kind: compare(pairs) for kind, pairs in {"all": everything, **kinds}.items()}
    results["150"] = {"plain answers": compare(answers(), "math")}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="compute_score against the official reward's way")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    results = measure()
    if args.json:
        print(json.dumps(results, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("tokens", "texts", "ours, 1/s", "official way, 1/s", "ratio", title="Reward: responses per second, one core")
    for num_tokens, kinds in results.items():
        for kind, figures in kinds.items():
            row = (f"{figures['ours_per_second']:,}", f"{figures['official_per_second']:,}", f"{figures['ratio']:.1f}x")
            table.add_row(num_tokens, kind, *row)
    Console().print(table)


if __name__ == "__main__":
    main()
