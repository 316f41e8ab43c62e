# SPDX-License-Identifier: Apache-2.0
"""The titles of measures, and the formats of numbers and verdicts, for the page and the terminal."""

from typing import Any, NamedTuple

from critic_r1_verl.scoring.measures import TOKENS
from critic_r1_verl.scoring.run import Metrics

MINUS = "−"
DASH = "–"


class Measure(NamedTuple):
    """How a measure of scoring/measures.py is displayed. part and key: its place in metrics.json."""

    part: str
    key: str
    title: str
    note: str

    def estimate(self, metrics: Metrics) -> dict[str, Any] | None:
        """The estimate of this measure in metrics.json; None if it is missing there."""
        return (metrics[self.part] or {}).get(self.key)


HEADLINE = (
    Measure("critic", "accuracy", "Critic accuracy", "right verdicts, over both orders"),
    Measure("critic", "strict", "Strict accuracy", "pairs that are right in both orders"),
    Measure("critic", "position_consistency", "Position consistency", "pairs with the same response preferred in both orders"),
    Measure("critic", "unparsed", "Unparsed verdicts", "lower is better"),
    Measure("policy", "greedy", "Greedy answer", "right answers of the policy, one greedy answer a question"),
    Measure("policy", "sample", "One sample", "right sampled answers"),
    Measure("policy", "majority", "Majority vote", "right answers by vote among the samples"),
    Measure("policy", "knockout", "Self-critique, knock-out", "right answers picked by verdicts alone, as in the paper"),
    Measure("policy", "vote_then_judge", "Self-critique, vote first", "picked by votes and, where these are close, by verdicts"),
)
METHOD_TITLES = {
    "single": "First sample",
    "random": "Random sample",
    "majority": "Majority vote",
    "oracle": "Oracle",
    "knockout": "Knock-out",
    "knockout_one_order": "Knock-out, one order",
    "round_robin": "Round robin",
    "swiss": "Swiss",
    "weighted_vote": "Weighted vote",
    "vote_then_judge": "Vote, then judge",
    "pointwise": "Scores",
    "one_shot": "One choice among all",
    "refine": "Vote, then revise",
    "duel": "Right against wrong",
}
"""The titles of the methods of select/methods.py."""
IN_HEADLINE = {measure.key for measure in HEADLINE}
DETAILS = (
    Measure("critic", "first_share", "Prefers the first response", "of verdicts for one response; 50 without a bias"),
    Measure("critic", "accuracy_chosen_first", "Accuracy, better response first", ""),
    Measure("critic", "accuracy_chosen_second", "Accuracy, better response second", ""),
    Measure("critic", "accuracy_chosen_longer", "Accuracy, better response longer", ""),
    Measure("critic", "accuracy_chosen_shorter", "Accuracy, better response shorter", ""),
    Measure("critic", "ties", "Ties", "of all verdicts"),
    Measure("critic", "unparsed/missing", "No box", "of all verdicts"),
    Measure("critic", "unparsed/unclosed", "Unclosed", "the reasoning or the box is not closed"),
    Measure("critic", "unparsed/ambiguous", "Ambiguous", "boxes that contradict each other"),
    Measure("critic", "unparsed/cut_short", "Cut short", "no verdict within the limit of tokens"),
    Measure("critic", "unparsed/refused", "Refused", "the server or the model would not judge"),
    Measure("critic", "unparsed/tool_call", "Called a tool", "instead of judging"),
    Measure("critic", "unparsed/empty", "Empty", "no text at all"),
    Measure("critic", "completion_tokens", "Tokens of a judgement", "a number, not percent"),
    Measure("policy", "refused", "Refused requests", "the server gave no answer, which counts as wrong"),
    Measure("policy", "answer_tokens", "Tokens of the samples", "of one question with its prompt; a number, not percent"),
    *(
        measure
        for method, title in METHOD_TITLES.items()
        for measure in (
            *([] if method in IN_HEADLINE else [Measure("policy", method, title, "selected answers that are right")]),
            Measure("policy", f"undecided/{method}", f"Undecided: {title}", "comparisons without a winner"),
            Measure("policy", f"judge_tokens/{method}", f"Tokens of verdicts: {title}", "of one question; a number, not percent"),
        )
    ),
)


def percent(share: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A share in percent with a typographic minus and no sign before a zero; a dash for None."""
    if share is None:
        return DASH
    text = f"{100 * share + 0.0:{'+' if sign else ''}.{digits}f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", MINUS)


def written(key: str, estimate: dict[str, Any] | None, *, digits: int = 1, sign: bool = False) -> tuple[str, str]:
    """The value and the interval ("low, high") of an estimate of metrics.json: numbers for tokens, percent for all else."""
    if estimate is None:
        return DASH, ""
    low, high = estimate["ci95"]
    if key.split("/")[0] in TOKENS:
        return f"{estimate['value']:,.1f}".replace("-", MINUS), f"{low:,.1f}, {high:,.1f}".replace("-", MINUS)
    return percent(estimate["value"], digits, sign=sign), f"{percent(low, digits, sign=sign)}, {percent(high, digits, sign=sign)}"


def choice_in_words(choice: str | None) -> str:
    """A choice in the frame of the record, for people."""
    return {None: "no verdict", "tie": "a tie"}.get(choice, f"response {choice}")


def by_group(estimates: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any] | None]]:
    """The estimates of a measure in each group of a benchmark, with the name of the group."""
    return [(name.removeprefix(f"{key}/"), found) for name, found in estimates.items() if name.startswith(f"{key}/")]


def lines_of(score: dict[str, Any], prefix: str = "") -> list[tuple[str, float | None]]:
    """All numbers of an official or strict score, each with its label."""
    lines: list[tuple[str, float | None]] = []
    for name, value in score.items():
        if name == "groups":
            lines += [(f"  {prefix}{group}", of_group) for group, of_group in value.items()]
        elif isinstance(value, dict):
            below = lines_of(value, f"{prefix}{name.replace('_', ' ')} ".removeprefix("splits "))
            # The groups of the splits stand among those of the whole already.
            lines += below if name != "splits" else [line for line in below if not line[0].startswith("  ")]
        else:
            lines.append((f"{prefix}{name.replace('_', ' ')}", value))
    return lines
