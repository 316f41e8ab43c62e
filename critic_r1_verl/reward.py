# SPDX-License-Identifier: Apache-2.0
"""The reward of a response: a door into verl (`reward.custom_reward_function.path=pkg://critic_r1_verl.reward`).

verl calls compute_score in a thread pool, and an exception would mark the whole group of rollouts as failed without stopping the run:
so it is pure, uses no signals, and no text makes it raise. Evaluation calls the same parser, so the reward is the metric.
"""

from threading import Lock
from typing import Any

from critic_r1_verl.verdict import Status, is_plain_maths, normalise, parse_answer, parse_verdict, with_thought_opened

# The parser behind math_verify keeps global state, and pure Python gains nothing from running twice at a time.
_MATHS = Lock()
# Expanding ((x+y+1)^9+1)^9 occupies sympy for minutes.
_MAX_BRACKET_DEGREE = 4


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    accuracy_weight: float = 0.9,
    format_weight: float = 0.1,
    thought_opened: bool = False,
    **_: Any,
) -> dict[str, float]:
    r"""Score in [0, 1] for weights that add up to 1: accuracy_weight * acc + format_weight * format.

    extra_info["style"] says what the box holds: "verdict" (the default), right if its choice is ground_truth ("1", "2" or "tie"), or
    "math", right if its content equals ground_truth, as text or as mathematics. acc, format and parsed (a choice or an answer was
    read) are 0.0 or 1.0. thought_opened says that the chat template opens the think block, so that the response begins inside it.
    Whatever is not a text, not a label or not a style scores 0: rows.check_row finds such rows before training.

    >>> compute_score("demo", "<think>Response 2 misreads the sign.</think> \\boxed{1}", "1")
    {'score': 1.0, 'acc': 1.0, 'format': 1.0, 'parsed': 1.0}
    """
    if thought_opened and isinstance(solution_str, str):
        solution_str = with_thought_opened(solution_str)
    right, well_formed, status = _grade(solution_str, ground_truth, _style(extra_info))
    acc, form = float(right), float(well_formed)
    score = accuracy_weight * acc + format_weight * form
    return {"score": score, "acc": acc, "format": form, "parsed": float(status == "parsed")}


def _style(extra_info: Any) -> Any:
    return extra_info.get("style", "verdict") if isinstance(extra_info, dict) else "verdict"


def _grade(text: Any, ground_truth: Any, style: Any) -> tuple[bool, bool, Status]:
    """Whether the response is right, whether it has the format, and how reading it went."""
    if not isinstance(text, str) or not isinstance(ground_truth, str):
        return False, False, "missing"
    if style == "verdict":
        verdict = parse_verdict(text)
        return verdict.choice == ground_truth, verdict.format, verdict.status
    if style == "math":
        answer = parse_answer(text)
        return answer.text is not None and _equal(answer.text, ground_truth), answer.format, answer.status
    return False, False, "missing"


def _equal(answer: str, ground_truth: str) -> bool:
    """Whether two answers are the same text, in any case, or plain mathematics of the same value."""
    truth = normalise(ground_truth)
    if answer.casefold() == truth.casefold():
        return True
    if not all(is_plain_maths(maths) and _bracket_degree(maths) <= _MAX_BRACKET_DEGREE for maths in (answer, truth)):
        return False
    import logging

    from math_verify import parse, verify

    # It would warn, in every process, of what the next comment says.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    with _MATHS:
        # Timeouts of math_verify are signals, which only a main thread may use; what is let through above bounds the work instead.
        parsed_truth, parsed_answer = (parse(f"${maths}$", fallback_mode="no_fallback", parsing_timeout=None) for maths in (truth, answer))
        return verify(parsed_truth, parsed_answer, timeout_seconds=None)


def _bracket_degree(maths: str) -> int:
    """The product of all exponents that stand on anything but a letter or a digit: 6 for (x+y)^2(x-y)^3, 1 for x^9."""
    degree = 1
    base, *powers = maths.replace(" ", "").split("^")
    for power in powers:
        exponent = power.lstrip("{-")[:1]
        if exponent.isdigit() and not base[-1:].isalnum():
            degree *= max(1, int(exponent))
        base = power
    return degree
