# SPDX-License-Identifier: Apache-2.0
r"""Parse the verdict or the answer from a model's output. Training and evaluation use only these functions.

The expected format is a think block and a box, `<think>why</think> \boxed{1}`:

* Boxes count only outside think blocks. A block extends from `<think>` to the next `</think>`. If the first `</think>` has no `<think>`
  before it (chat templates may put that into the prompt), all text before it belongs to a think block.
* A block or a box that is never closed makes the status `unclosed`, and boxes with different contents make it `ambiguous`. Without a box,
  or if the content of the box is not usable, the status is `missing`. No choice is ever guessed.
* A box that the words beside it deny ("not \boxed{1}", "\boxed{1} is wrong") makes the status `ambiguous`. A box that no reader of the
  rendered text would see does not count: in an HTML or a LaTeX comment, in `\iffalse`, in `\phantom`. Other prose is not interpreted.
* `format` is true only if the text is one think block with visible content, then one box, and otherwise only white space. A choice in a
  spelling that is clear, but not one that the prompt asks for, as `\boxed{(2)}`, is read without the format.

All functions accept every `str` and take time linear in its length.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from critic_r1_verl.records import Choice

Status = Literal["parsed", "missing", "unclosed", "ambiguous"]

THINK_TAGS = ("<think>", "</think>")

_THINK, _END_THINK = THINK_TAGS
_BOX = "\\boxed{"
_BOX_START = re.compile(r"\\boxed\s*\{")
# An escaped character, such as a brace, does not open or close anything.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_CHOICES: dict[str, Choice] = {"1": "1", "2": "2", "tie": "tie", "response 1": "1", "response 2": "2"}
_COMMANDS = ("\\text{", "\\mathrm{", "\\textbf{")
_DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"))
# Spellings of a choice that are beyond doubt, beside those of _CHOICES. A longer text is none.
_MAX_CHOICE_CHARS = 200
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
_LOOK = re.compile(
    r"\\(?:text(?:bf|rm|it|sf|tt|normal|up|md)?|math(?:rm|bf|it|sf|tt|normal)|boldsymbol|bm|emph|underline|mbox|hbox|operatorname"
    r"|rm|bf|it|sf|tt|tiny|small|normalsize|large|Large|LARGE|huge|Huge|displaystyle|textstyle|left|right)(?![A-Za-z])"
    r"|\\(?:textcolor|color)\{[a-zA-Z]+\}|\\[()\[\]#]|(?<!\\)[{}$*`\"'“”‘’]"
)
_SPACE = re.compile(r"\\[,;:! ]|\\q?quad(?![A-Za-z])|[~\s]")
_CLEAR_CHOICE = re.compile(
    r"(?:(?:the |my )?(?:final )?(?:answer|verdict|choice|decision|judge?ment|winner|result)(?: is|:| is:)? ?)?"
    r"(?:(?:the )?(?:response|answer) ?[#:]? ?)?(?:([12])|\(([12])\)|\[([12])\]|(?:a )?(tie)|\((tie)\)|\[(tie)\])",
    re.IGNORECASE | re.ASCII,
)
# Words that deny the box beside them; nearly all texts have none of them, which is known at once.
_DENIAL = re.compile("n[o'’]t|never|neither|wrong|incorrect|false", re.IGNORECASE)
_DENIED_BEFORE = re.compile(r"(?:\b(?:not|never|neither|cannot)|n['’]t)(?: be| the answer)?[\s$*:(\[\\]*\Z", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"[\s$*)\]\\,]*(?:(?:is|was|would be|seems) (?:wrong|incorrect|false)"
    r"|(?:(?:is|was|would be|seems) not|(?:is|was)n['’]t|cannot be|can['’]t be) (?:right|correct|true|the (?:answer|right)))\b",
    re.IGNORECASE,
)
_DENIAL_CHARS = 40
_UNSEEN = re.compile(r"<!--|\\iffalse(?![A-Za-z])|\\begin\{comment\}|^[ \t]*%|\\[hv]?phantom\s*\{", re.MULTILINE)
_UNSEEN_UNTIL = {"<!--": "-->", "\\iffalse": "\\fi", "\\begin{comment}": "\\end{comment}"}
# Characters of the visible categories that show nothing: fillers, the empty Braille pattern, a null note head.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800\U0001d159")
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
    Other spellings that are beyond doubt, as `(2)`, `Answer: 2`, `**2**` or `\large 1`, and several boxes with the same choice have the
    status `parsed` too, and `format` is false.
    """
    contents, closed, well_formed = _read_boxes(text)
    if not closed:
        return Verdict(None, "unclosed", False)
    asked = [_CHOICES.get(content) or _CHOICES.get(" ".join(normalise(content).lower().split())) for content in contents]
    choices = {choice or _clear_choice(content) for choice, content in zip(asked, contents, strict=True)}
    if len(choices) > 1:
        return Verdict(None, "ambiguous", False)
    choice = choices.pop() if choices else None
    if choice is None:
        return Verdict(None, "missing", False)
    return Verdict(choice, "parsed", well_formed and None not in asked)


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


def _clear_choice(content: str) -> Choice | None:
    """The choice in a spelling that the prompt does not ask for, if it is beyond doubt."""
    content = content.strip()
    if len(content) > _MAX_CHOICE_CHARS:
        return None
    content = _LOOK.sub("", _SPACE.sub(" ", content.translate(_FULL_WIDTH)))
    match = _CLEAR_CHOICE.fullmatch(" ".join(content.split()).removesuffix("."))
    return _CHOICES[next(filter(None, match.groups())).lower()] if match else None


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
        elif not thinking and "\\boxed" in part:
            part = _seen(part)
            may_deny = _DENIAL.search(part) is not None
            box = _BOX_START.search(part)
            while box:
                end = _closing_brace(part, box.end())
                if end == -1:
                    return [], False, False
                contents.append(part[box.end() : end])
                if may_deny and _is_denied(part, box.start(), end + 1):
                    # A box that is also denied counts as two boxes with different contents.
                    contents.append("")
                box = _BOX_START.search(part, end)
    return contents, not thinking, len(contents) == 1 and _is_well_formed(parts, contents[0])


def _is_denied(text: str, start: int, end: int) -> bool:
    """Whether the words right before or right after a box say that it is not the answer."""
    before, after = text[max(0, start - _DENIAL_CHARS) : start], text[end : end + _DENIAL_CHARS]
    return _DENIED_BEFORE.search(before) is not None or _DENIED_AFTER.match(after) is not None


def _seen(text: str) -> str:
    """The text without what a reader of the rendered text would not see."""
    shown, place = [], 0
    while match := _UNSEEN.search(text, place):
        shown.append(text[place : match.start()])
        if match[0].endswith("{"):
            end, length = _closing_brace(text, match.end()), 1
        else:
            closing = _UNSEEN_UNTIL.get(match[0], "\n")
            end, length = text.find(closing, match.end()), len(closing)
        # What is not closed hides the rest.
        place = len(text) if end == -1 else end + length
    return "".join([*shown, text[place:]])


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
    return any(unicodedata.category(char)[0] in "LNPS" and char not in _BLANK for char in parts[2])


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
