# SPDX-License-Identifier: Apache-2.0
r"""Model text -> verdict or answer. Every regular expression that reads a model's output is here.

The grammar is one thought and one box, `<think>why</think> \boxed{1}`:

* Boxes count only outside think blocks. A block runs from `<think>` to the next `</think>`; where the first `</think>` was never
  opened (chat templates may open it in the prompt), everything before it is thought.
* A block or a box that is opened and never closed makes the whole text `unclosed`; two boxes that say different things make it
  `ambiguous`; no box, or a box that says nothing of use, makes it `missing`. None of these is ever guessed.
* `format` holds only for the whole grammar: one visible thought, then one box, and nothing else but white space.

All functions are total over `str` and take time linear in its length.
"""

import re
from dataclasses import dataclass
from typing import Literal

from critic_r1_verl.records import Choice

Status = Literal["parsed", "missing", "unclosed", "ambiguous"]

THINK_TAGS = ("<think>", "</think>")

_THINK, _END_THINK = THINK_TAGS
_BOX = "\\boxed{"
# An escaped brace (or any escaped character) is text, not structure.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_CHOICES: dict[str, Choice] = {"1": "1", "2": "2", "tie": "tie", "response 1": "1", "response 2": "2"}
_COMMANDS = ("\\text{", "\\mathrm{", "\\textbf{")
_DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"))
# A sign, a digit, a bracket, a lone letter, a fraction, a root, an exponent of one digit: no words, no factorials, no towers of powers.
_PLAIN_MATHS = re.compile(
    r"(?:[A-Za-z]\s*=)?"
    r"(?:\\(?:[dt]?frac|sqrt|pi|infty|cup|pm|cdot|times|div|left|right|circ|[{}%,;! ])"
    r"|[\d\s.,+\-*/()\[\]{}%|]"
    r"|\^(?:\{-?\d\}|\d(?!\d)|\\circ|\{\\circ\})"
    r"|(?<![A-Za-z])[A-Za-z](?![A-Za-z]))+",
    re.ASCII,
)
_MAX_MATHS_CHARS, _MAX_POWERS, _MAX_ROOTS, _MAX_UNKNOWNS = 64, 3, 2, 2
# Beside a root, a decimal or a power of anything but a letter can occupy sympy for minutes, as in \sqrt[5]{0.5/\sqrt{99}}.
_HEAVY_BESIDE_ROOT = re.compile(r"[^A-Za-z]\^\{?-?\d|\.")
# Real boxes have one or two layers, as in `$\text{1}$.`; the bound keeps hostile nesting linear.
_MAX_LAYERS = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a critic's text says, in the shown frame. `choice` is None exactly if `status` is not "parsed"; `format` implies "parsed".

    >>> parse_verdict("<think>Response 2 misreads the sign.</think> \\\\boxed{1}")
    Verdict(choice='1', status='parsed', format=True)
    """

    choice: Choice | None
    status: Status
    format: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What a policy's text answers. `text` is the normalised content of the box, None exactly if `status` is not "parsed"."""

    text: str | None
    status: Status
    format: bool


def parse_verdict(text: str) -> Verdict:
    r"""Read the choice from a critic's output.

    `1`, `2`, `tie`, `Response 1` and `Response 2` are choices, in any case and under the wrapping that `normalise` removes; any other
    content is no choice. Boxes that repeat one choice are parsed, without `format`.
    """
    contents, closed, well_formed = _read(text)
    if not closed:
        return Verdict(None, "unclosed", False)
    choices = {_CHOICES.get(content) or _CHOICES.get(" ".join(normalise(content).lower().split())) for content in contents}
    if len(choices) > 1:
        return Verdict(None, "ambiguous", False)
    choice = choices.pop() if choices else None
    return Verdict(None, "missing", False) if choice is None else Verdict(choice, "parsed", well_formed)


def parse_answer(text: str) -> Answer:
    r"""Read the answer from a policy's output: the same grammar with free content, in which braces may nest (`\boxed{\frac{1}{2}}`)."""
    contents, closed, well_formed = _read(text)
    if not closed:
        return Answer(None, "unclosed", False)
    answers = {normalise(content) for content in contents}
    if len(answers) > 1:
        return Answer(None, "ambiguous", False)
    answer = answers.pop() if answers else ""
    return Answer(answer, "parsed", well_formed) if answer else Answer(None, "missing", False)


def normalise(content: str) -> str:
    r"""Strip white space, a full stop at the end, and the wrappings `\text{}`, `\mathrm{}`, `\textbf{}`, `$ $`, `$$ $$` and `\( \)`.

    >>> normalise(" $\\text{Tie.}$ ")
    'Tie'
    """
    content = content.strip()
    for _ in range(_MAX_LAYERS):
        inner = _unwrapped(content.removesuffix(".").rstrip()).strip()
        if inner == content:
            break
        content = inner
    return content


def is_plain_maths(answer: str) -> bool:
    r"""Whether an answer is mathematics so short and simple that a symbolic comparison ends within about a second.

    Words are not mathematics: as products of letters, "no" would equal "on".
    """
    if len(answer) > _MAX_MATHS_CHARS or answer.count("^") > _MAX_POWERS or answer.count("\\sqrt") > _MAX_ROOTS or "**" in answer:
        return False
    if "\\sqrt" in answer and _HEAVY_BESIDE_ROOT.search(answer):
        return False
    unknowns = set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", answer))
    return len(unknowns) <= _MAX_UNKNOWNS and _PLAIN_MATHS.fullmatch(answer) is not None


def _unwrapped(content: str) -> str:
    """Content without its outermost wrapping, if one spans all of it."""
    for command in _COMMANDS:
        if content.startswith(command) and _closing_brace(content, len(command)) == len(content) - 1:
            return content[len(command) : -1]
    for opening, closing in _DELIMITERS:
        inner = content[len(opening) : -len(closing)]
        if content == opening + inner + closing and closing not in inner:
            return inner
    return content


def _read(text: str) -> tuple[list[str], bool, bool]:
    """Contents of the boxes that count, whether everything opened was closed, and whether the text is one thought and one box."""
    parts = _split_at_tags(text)
    contents = []
    thinking = len(parts) > 1 and parts[1] == _END_THINK
    for part in parts:
        if part in (_THINK, _END_THINK):
            thinking = part == _THINK
        elif not thinking:
            start = part.find(_BOX)
            while start != -1:
                start += len(_BOX)
                end = _closing_brace(part, start)
                if end == -1:
                    return [], False, False
                contents.append(part[start:end])
                start = part.find(_BOX, end)
    return contents, not thinking, len(contents) == 1 and _is_well_formed(parts, contents[0])


def _split_at_tags(text: str) -> list[str]:
    """text, tag, text, tag, ..., text. Hopping from "<" to "<" passes a long thought many times faster than a regular expression."""
    parts: list[str] = []
    position, start = 0, text.find("<")
    while start != -1:
        for tag in (_THINK, _END_THINK):
            if text.startswith(tag, start):
                parts += text[position:start], tag
                position = start + len(tag)
        start = text.find("<", start + 1)
    return [*parts, text[position:]]


def _is_well_formed(parts: list[str], content: str) -> bool:
    """Whether the parts of a text with this one box are a visible thought, then the box, and white space around them."""
    if parts[1::2] != [_THINK, _END_THINK] or parts[0].strip() or parts[4].strip() != f"{_BOX}{content}}}":
        return False
    return any(char.isprintable() and not char.isspace() for char in parts[2])


def _closing_brace(text: str, start: int) -> int:
    """Index of the brace that closes the one opened just before `start`; -1 if it stays open."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return -1


def with_think_tags(text: str, tags: tuple[str, str]) -> str:
    """A text whose thought stands between other tags, (opening, closing), with <think> </think> in their place."""
    for tag, other in zip(THINK_TAGS, tags, strict=True):
        text = text.replace(other, tag)
    return text


def with_thought_opened(text: str) -> str:
    """A text that continues a think block which its prompt opened, with the <think> in front; one that opens its own stays as it is."""
    return text if text.lstrip().startswith(_THINK) else _THINK + text


def without_tags(text: str) -> str:
    """A policy's output as a critic is shown it: thought and answer, without the tags around the thought."""
    return text.replace(_THINK, "").replace(_END_THINK, "").strip()
