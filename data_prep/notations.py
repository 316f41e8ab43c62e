# SPDX-License-Identifier: Apache-2.0
"""Answers that the reward pays in their own notation only: a model that writes the same in another one would be called wrong."""

import re

from critic_r1_verl.reward import compute_score

_FRACTION = re.compile(r"\\([dt]?)frac(?![A-Za-z])")
_SIZE = re.compile(r"\\(?:left|right)(?![A-Za-z])\s*")
_TEXT = re.compile(r"\\(?:text|mathrm)\s*\{([^{}]*)\}")
_LINE_END = re.compile(r"\s*\$\$\s*\$\$\s*|\s*\n\s*")


def rewritten(answer: str) -> dict[str, str]:
    r"""The answer in five common notations, by what was changed, without those that change nothing.

    >>> rewritten(r"\dfrac{1}{2}\text{ m}")
    {'\\frac for \\dfrac': '\\frac{1}{2}\\text{ m}', 'without \\text': '\\dfrac{1}{2} m', 'in dollar signs': '$\\dfrac{1}{2}\\text{ m}$'}
    """
    styled = "\\dfrac" in answer or "\\tfrac" in answer
    notations = {
        "\\frac for \\dfrac" if styled else "\\dfrac for \\frac": _FRACTION.sub(r"\\frac" if styled else r"\\dfrac", answer),
        "without \\left and \\right": _SIZE.sub("", answer),
        "without \\text": _TEXT.sub(r"\1", answer),
        "in one line": _LINE_END.sub(" ", answer.strip()),
        "in dollar signs": answer if "$" in answer else f"${answer}$",
    }
    return {name: text for name, text in notations.items() if text != answer}


def unpaid(answer: str) -> list[str]:
    """The notations in which the reward of training does not pay the answer; empty for nearly all answers, and for an unknown one, ""."""
    if not answer:
        return []

    def is_paid(text: str) -> bool:
        return compute_score("", f"<think>checked</think>\\boxed{{{text}}}", answer, {"style": "math"})["acc"] == 1

    return [name for name, text in rewritten(answer).items() if not is_paid(text)]
