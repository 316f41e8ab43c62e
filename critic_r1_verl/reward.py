# SPDX-License-Identifier: Apache-2.0
"""The reward of a response, which verl loads as `reward.custom_reward_function.path=pkg://critic_r1_verl.reward`.

verl calls compute_score in a thread pool, where an exception would mark the whole group of rollouts as failed without stopping the run. So
compute_score is pure, uses no signals, and raises for no text. Evaluation uses the same parser, so the reward is the metric.
"""

from threading import Lock
from typing import Any

from critic_r1_verl.verdict import Status, is_plain_maths, normalise, parse_answer, parse_verdict, with_thought_opened

# The parser of math_verify has global state, and pure Python code would not be faster in several threads.
_PARSER_LOCK = Lock()
# With a higher degree, as in ((x+y+1)^9+1)^9, sympy takes minutes to expand the expression.
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

    extra_info["style"] says what the box should contain. "verdict" (the default): the choice ground_truth ("1", "2" or "tie"). "math": an
    answer that equals ground_truth as text or as mathematics. acc, format and parsed (a choice or an answer was read) are 0.0 or 1.0.
    thought_opened: the chat template opens the think block, so that the response begins inside it.
    A response or ground_truth that is not a string, or an unknown style, scores 0; rows.check_row finds such rows before training.

    >>> compute_score("demo", "<think>Response 2 misreads the sign.</think> \\boxed{1}", "1")
    {'score': 1.0, 'acc': 1.0, 'format': 1.0, 'parsed': 1.0}
    """
    if thought_opened and isinstance(solution_str, str):
        solution_str = with_thought_opened(solution_str)
    style = extra_info.get("style", "verdict") if isinstance(extra_info, dict) else "verdict"
    correct, well_formed, status = _grade(solution_str, ground_truth, style)
    acc, form = float(correct), float(well_formed)
    return {"score": accuracy_weight * acc + format_weight * form, "acc": acc, "format": form, "parsed": float(status == "parsed")}


def _grade(text: Any, ground_truth: Any, style: Any) -> tuple[bool, bool, Status]:
    """Whether the response is correct, whether it has the required format, and the status of parsing it."""
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
    """Whether two answers are the same text, ignoring case, or plain mathematics with the same value."""
    truth = normalise(ground_truth)
    if answer.casefold() == truth.casefold():
        return True
    if not all(is_plain_maths(maths) and _bracket_degree(maths) <= _MAX_BRACKET_DEGREE for maths in (answer, truth)):
        return False
    import logging

    from math_verify import parse, verify

    # math_verify would warn in every process that there is no timeout.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    with _PARSER_LOCK:
        # math_verify implements timeouts by signals, which work only in the main thread. The checks above limit the work instead.
        parsed_truth, parsed_answer = (parse(f"${maths}$", fallback_mode="no_fallback", parsing_timeout=None) for maths in (truth, answer))
        return verify(parsed_truth, parsed_answer, timeout_seconds=None)


def _bracket_degree(maths: str) -> int:
    """The product of all exponents that do not directly follow a letter or a digit: 6 for (x+y)^2(x-y)^3, 1 for x^9."""
    degree = 1
    base, *powers = maths.replace(" ", "").split("^")
    for power in powers:
        exponent = power.lstrip("{-")[:1]
        if exponent.isdigit() and not base[-1:].isalnum():
            degree *= max(1, int(exponent))
        base = power
    return degree
