# SPDX-License-Identifier: Apache-2.0
"""How numbers are named and written for people, on the page and on the terminal alike."""

from typing import Any, NamedTuple

from critic_r1_verl.scoring.measures import TOKENS

MINUS = "−"
DASH = "–"


class Measure(NamedTuple):
    """A measure of scoring/measures.py as people read it: its part of metrics.json, its key, its title, and what one value of it is."""

    part: str
    key: str
    title: str
    note: str


HEADLINE = (
    Measure("critic", "accuracy", "Critic accuracy", "right verdicts, over both orders"),
    Measure("critic", "strict", "Strict accuracy", "pairs that are right in both orders"),
    Measure("critic", "position_consistency", "Position consistency", "pairs with the same response preferred in both orders"),
    Measure("critic", "unparsed", "Unparsed verdicts", "lower is better"),
    Measure("policy", "greedy", "Greedy answer", "right answers of the policy, one greedy answer a question"),
    Measure("policy", "sample", "One sample", "right sampled answers"),
    Measure("policy", "majority", "Majority vote", "right answers by vote among the samples"),
    Measure("policy", "self_critique", "Self-critique", "right answers picked by the model's own verdicts"),
)
DETAILS = (
    Measure("critic", "first_share", "Says the first", "of verdicts for one of the two; 50 without a bias"),
    Measure("critic", "accuracy_chosen_longer", "Right where the better response is longer", ""),
    Measure("critic", "accuracy_chosen_shorter", "Right where it is shorter", ""),
    Measure("critic", "ties", "Ties", "of all verdicts"),
    Measure("critic", "unparsed/missing", "No box", "of all verdicts"),
    Measure("critic", "unparsed/unclosed", "Cut short", "a thought or a box that is never closed"),
    Measure("critic", "unparsed/ambiguous", "Ambiguous", "boxes that contradict each other"),
    Measure("critic", "completion_tokens", "Tokens of a verdict", "a number, not percent"),
    Measure("policy", "undecided", "Undecided matches", "the two orders do not agree on a winner"),
    Measure("policy", "sample_tokens", "Tokens of the samples", "of one question; a number, not percent"),
    Measure("policy", "critique_tokens", "Tokens of the critique", "of one question, prompts included; a number, not percent"),
)


def percent(share: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A share in percent with a true minus, and no sign before a zero; a dash where there is none."""
    if share is None:
        return DASH
    text = f"{100 * share + 0.0:{'+' if sign else ''}.{digits}f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", MINUS)


def written(key: str, estimate: dict[str, Any] | None, *, digits: int = 1, sign: bool = False) -> tuple[str, str]:
    """The value and the interval ("low, high") of an estimate of metrics.json, in percent or, of tokens, as a number."""
    if estimate is None:
        return DASH, ""
    low, high = estimate["ci95"]
    if key in TOKENS:
        return f"{estimate['value']:,.1f}".replace("-", MINUS), f"{low:,.1f}, {high:,.1f}".replace("-", MINUS)
    return percent(estimate["value"], digits, sign=sign), f"{percent(low, digits, sign=sign)}, {percent(high, digits, sign=sign)}"


def by_group(estimates: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any] | None]]:
    """The estimates of a measure within each group of a benchmark."""
    return [(name.removeprefix(f"{key}/"), found) for name, found in estimates.items() if name.startswith(f"{key}/")]


def lines_of(score: dict[str, Any], prefix: str = "") -> list[tuple[str, float | None]]:
    """All figures of an official or strict score, by the label under which they are shown."""
    lines: list[tuple[str, float | None]] = []
    for name, value in score.items():
        if name == "groups":
            lines += [(f"{prefix}  {group}", of_group) for group, of_group in value.items()]
        elif isinstance(value, dict):
            below = lines_of(value, f"{prefix}{name.replace('_', ' ')} ".removeprefix("splits "))
            lines += [line for line in below if "  " not in line[0]]
        else:
            lines.append((f"{prefix}{name.replace('_', ' ')}", value))
    return lines
