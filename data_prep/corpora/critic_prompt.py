# SPDX-License-Identifier: Apache-2.0
"""Parses the prompt of LLaVA-Critic, in which question and responses are in brackets.

    Question: [...]
    The first response: [...]
    The second response: [...]

(or Response 1 and 2, or Response A and B). The texts may contain brackets too; if it is not certain where a part ends, the row is skipped.
Skipped rows are counted by the headings of their prompts (vocabulary.py).
"""

import re
from typing import NamedTuple

from data_prep.corpus import Skip

_QUESTION = "Question: ["
_RESPONSES = {("The first response", "The second response"), ("Response 1", "Response 2"), ("Response A", "Response B")}
_BOUNDARY = re.compile(r"\][^\S\n]*\n\s*(The (?:first|second) response|Response [12AB])[^\S\n]*:[^\S\n]*\[")
_BRACKET = re.compile(r"[\[\]]")
_HEADING = re.compile(r"[^:\[\]]{0,30}(?:question|response|answer|assistant|option|candidate)[^:\[\]]{0,20}:\s?\[?", re.IGNORECASE)


class Parts(NamedTuple):
    """What a prompt holds. lettered: it calls the responses A and B."""

    question: str
    first: str
    second: str
    lettered: bool


def parts(prompt: str) -> Parts | Skip:
    """Question and responses; Skip if they cannot be told apart. Linear in the length of the prompt."""
    rest = prompt.partition(_QUESTION)[2]
    boundaries = list(_BOUNDARY.finditer(rest))
    if len(boundaries) < 2:
        return Skip("prompt is in no known form", form(prompt))
    first, second = boundaries[:2]
    question = rest[: first.start()]
    tail = rest[second.end() :]
    end = _end(tail)
    if len(boundaries) > 2 or (first[1], second[1]) not in _RESPONSES or f"\n{_QUESTION}" in question or end is None:
        return Skip("parts of the prompt cannot be told apart", f"{form(prompt)}, with a bracket too many or too few")
    return Parts(question.strip(), rest[first.end() : second.start()].strip(), tail[:end].strip(), first[1] == "Response A")


def form(prompt: str) -> str:
    """The lines of a prompt that look like headings, in at most 120 characters, which show in what form it is.

    >>> form("Question: [Why?]\\nAnswer 1: A.\\nAnswer 2: B.")
    'question: [ / answer 1: / answer 2:'
    """
    found = (_HEADING.match(line.strip()[:60]) for line in prompt.splitlines())
    headings = [" ".join(heading[0].lower().split()) for heading in found if heading]
    return "".join(letter if letter.isprintable() else "?" for letter in " / ".join(headings)[:120]) or "no headings"


def _end(tail: str) -> int | None:
    """The position of the bracket that closes the one open before the tail: the last one, or None if another could be meant."""
    last = tail.rfind("]")
    depth = 1
    for bracket in _BRACKET.finditer(tail):
        depth += 1 if bracket[0] == "[" else -1
        if depth == 0:
            return last if bracket.start() == last else None
    # A bracket of the response was not closed, as in "[0, 1)"; then the last bracket must end the prompt.
    return last if tail[last + 1 :].strip() in ("", "ASSISTANT:") and "]\n" not in tail[:last] and last != -1 else None
