# SPDX-License-Identifier: Apache-2.0
r"""Parse the verdict or the answer from a model's output. Training and evaluation use only these functions.

The expected format is a think block and a box, `<think>why</think> \boxed{1}`:

* Boxes count only outside think blocks. A block extends from `<think>` to the next `</think>`. If the first `</think>` has no `<think>`
  before it (chat templates may put that into the prompt), all text before it belongs to a think block.
* A block or a box that is never closed makes the status `unclosed`, and boxes with different contents make it `ambiguous`. Without a box,
  or if the content of the box is not usable, the status is `missing`. No choice is ever guessed.
* `format` is true only if the text is one think block with visible content, then one box, and otherwise only white space.

All functions accept every `str` and take time linear in its length.
"""

import re
from dataclasses import dataclass
from typing import Literal

from critic_r1_verl.records import Choice

Status = Literal["parsed", "missing", "unclosed", "ambiguous"]

THINK_TAGS = ("<think>", "</think>")

_THINK, _END_THINK = THINK_TAGS
_BOX = "\\boxed{"
# An escaped character, such as a brace, does not open or close anything.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_CHOICES: dict[str, Choice] = {"1": "1", "2": "2", "tie": "tie", "response 1": "1", "response 2": "2"}
_COMMANDS = ("\\text{", "\\mathrm{", "\\textbf{")
_DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"))
# Allows signs, digits, brackets, single letters, fractions, roots and exponents of one digit, but no words, factorials or nested powers.
_PLAIN_MATHS = re.compile(
    r"(?:[A-Za-z]\s*=)?"
    r"(?:\\(?:[dt]?frac|sqrt|pi|infty|cup|pm|cdot|times|div|left|right|circ|[{}%,;! ])"
    r"|[\d\s.,+\-*/()\[\]{}%|]"
    r"|\^(?:\{-?\d\}|\d(?!\d)|\\circ|\{\\circ\})"
    r"|(?<![A-Za-z])[A-Za-z](?![A-Za-z]))+",
    re.ASCII,
)
_MAX_MATHS_CHARS, _MAX_POWERS, _MAX_ROOTS, _MAX_UNKNOWNS = 64, 3, 2, 2
# Together with a root, a decimal or a power of anything but a letter can take sympy minutes, as in \sqrt[5]{0.5/\sqrt{99}}.
_HEAVY_BESIDE_ROOT = re.compile(r"[^A-Za-z]\^\{?-?\d|\.")
# Real boxes have one or two layers, as in `$\text{1}$.`. The limit keeps the time linear for any nesting.
_MAX_LAYERS = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """The parsed output of a critic, in the shown frame. `choice` is None unless `status` is "parsed"; `format` implies "parsed".

    >>> parse_verdict("<think>Response 2 misreads the sign.</think> \\\\boxed{1}")
    Verdict(choice='1', status='parsed', format=True)
    """

    choice: Choice | None
    status: Status
    format: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The parsed output of a policy. `text` is the normalised content of the box, None unless `status` is "parsed"."""

    text: str | None
    status: Status
    format: bool


def parse_verdict(text: str) -> Verdict:
    r"""Parse the choice from a critic's output.

    The choices are `1`, `2`, `tie`, `Response 1` and `Response 2`, in any case, also inside the wrappings that `normalise` removes.
    If several boxes contain the same choice, the status is `parsed` and `format` is false.
    """
    contents, closed, well_formed = _read_boxes(text)
    if not closed:
        return Verdict(None, "unclosed", False)
    choices = {_CHOICES.get(content) or _CHOICES.get(" ".join(normalise(content).lower().split())) for content in contents}
    if len(choices) > 1:
        return Verdict(None, "ambiguous", False)
    choice = choices.pop() if choices else None
    return Verdict(None, "missing", False) if choice is None else Verdict(choice, "parsed", well_formed)


def parse_answer(text: str) -> Answer:
    r"""Parse the answer from a policy's output. The box may contain any text, also with nested braces (`\boxed{\frac{1}{2}}`)."""
    contents, closed, well_formed = _read_boxes(text)
    if not closed:
        return Answer(None, "unclosed", False)
    answers = {normalise(content) for content in contents}
    if len(answers) > 1:
        return Answer(None, "ambiguous", False)
    answer = answers.pop() if answers else ""
    return Answer(answer, "parsed", well_formed) if answer else Answer(None, "missing", False)


def normalise(content: str) -> str:
    r"""Remove outer white space, a full stop at the end, and the wrappings `\text{}`, `\mathrm{}`, `\textbf{}`, `$ $`, `$$ $$` and `\( \)`.

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
    r"""Whether an answer is a mathematical expression that is simple enough for a symbolic comparison within about a second.

    Words do not count, because as products of letters "no" would equal "on".
    """
    if len(answer) > _MAX_MATHS_CHARS or answer.count("^") > _MAX_POWERS or answer.count("\\sqrt") > _MAX_ROOTS or "**" in answer:
        return False
    if "\\sqrt" in answer and _HEAVY_BESIDE_ROOT.search(answer):
        return False
    unknowns = set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", answer))
    return len(unknowns) <= _MAX_UNKNOWNS and _PLAIN_MATHS.fullmatch(answer) is not None


def _unwrapped(content: str) -> str:
    """The content without its outermost wrapping, if it has one."""
    for command in _COMMANDS:
        if content.startswith(command) and _closing_brace(content, len(command)) == len(content) - 1:
            return content[len(command) : -1]
    for opening, closing in _DELIMITERS:
        inner = content[len(opening) : -len(closing)]
        if content == opening + inner + closing and closing not in inner:
            return inner
    return content


def _read_boxes(text: str) -> tuple[list[str], bool, bool]:
    """The contents of the boxes outside think blocks, whether all blocks and boxes are closed, and whether the text has the format."""
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
    """Split into [text, tag, text, tag, ..., text]. Searching for "<" is many times faster on long texts than a regular expression."""
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
    """Whether a text with a single box is a think block with visible content, then the box, and only white space around them."""
    if parts[1::2] != [_THINK, _END_THINK] or parts[0].strip() or parts[4].strip() != f"{_BOX}{content}}}":
        return False
    return any(char.isprintable() and not char.isspace() for char in parts[2])


def _closing_brace(text: str, start: int) -> int:
    """The index of the brace that closes the one just before `start`, or -1 if there is none."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return -1


def as_written(text: str, tags: tuple[str, str], thought_opened: bool) -> str:
    r"""A model's text with <think> and </think> for its own (opening, closing) tags, also for an opening one that its prompt has written.

    >>> print(as_written(r"It is red.[/T] \boxed{1}", ("[T]", "[/T]"), thought_opened=True))
    <think>It is red.</think> \boxed{1}
    """
    for tag, other in zip(THINK_TAGS, tags, strict=True):
        text = text.replace(other, tag)
    return with_thought_opened(text) if thought_opened else text


def with_thought_opened(text: str) -> str:
    """A text that continues a think block which its prompt opened, with the <think> in front; one that opens its own stays as it is."""
    return text if text.lstrip().startswith(_THINK) else _THINK + text


def without_tags(text: str) -> str:
    """A policy's output as a critic sees it: reasoning and answer, without the think tags."""
    return text.replace(_THINK, "").replace(_END_THINK, "").strip()
