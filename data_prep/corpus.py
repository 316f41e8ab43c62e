# SPDX-License-Identifier: Apache-2.0
"""The interface of a corpus module (a converter); corpora/ holds one such module for each corpus.

A module has these constants: NAME, HUB (hub id or None), CONFIG (configuration on the hub or None), SPLIT, REVISION ("" for the newest),
LICENCE ("" if none is stated), GRADE (how well the schema is known, from "A", documented, to "D") and COLUMNS (the required columns). FILES
is optional, for a folder that holds the same data twice: file names in order of preference, of which the first that exists is read. LABEL
is optional, for labels whose spellings are not documented: their column, which vocabulary.py describes. layout is optional, a function that
names the layout of a raw row, for a corpus that has several; the build counts them. The one function that a module must have is

    convert(raw: dict, put: Put) -> Iterable[Record | Skip]

It is pure apart from put, which it calls last, after the checks of text and label. Each Record and each Skip counts as one that was read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from critic_r1_verl.records import Image

Put = Callable[[Any], Image]
"""Stores a raw image (bytes, {"bytes", "path"}, a PIL image, or a path relative to the image folder); raises BadImage if it cannot."""

IMAGE = "<image>"
_PLACEHOLDERS = (IMAGE, "<video>", "<audio>")


@dataclass(frozen=True, slots=True)
class Skip:
    """A row, or one pair of it, that cannot be used. reason is a fixed short phrase such as "tie", without content of the row.

    spelling: that of a label, or the form of a prompt, that was not read (vocabulary.py); "" for any other reason.
    """

    reason: str
    spelling: str = ""


class SchemaError(ValueError):
    """A row or table does not follow the documented schema. The message has key, value and expectation; the build adds corpus and row."""


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded: a text from JSON can hold a lone surrogate, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bad_text(question: Any, *responses: Any) -> Skip | None:
    """The reason why these texts cannot be a record, or None; call this before an image is stored.

    >>> bad_text("What is it?", "A cat.", " ")
    Skip(reason='empty response')
    """
    if not isinstance(question, str):
        return Skip("question is not a text")
    if not all(isinstance(response, str) for response in responses):
        return Skip("response is not a text")
    if not all(is_utf8(text) for text in (question, *responses)):
        return Skip("text is not valid UTF-8")
    if not question.strip():
        return Skip("empty question")
    if not all(response.strip() for response in responses):
        return Skip("empty response")
    if len({response.strip() for response in responses}) < len(responses):
        return Skip("identical responses")
    return None


def strip_placeholders(text: str) -> str:
    """The text without placeholders at its two ends, as the prompt adds its own. One in the middle stays, and is escaped later.

    >>> strip_placeholders("<image>\\nWhat is it?")
    'What is it?'
    """
    text = text.strip()
    while found := [mark for mark in _PLACEHOLDERS if text.startswith(mark)]:
        text = text.removeprefix(found[0]).lstrip()
    while found := [mark for mark in _PLACEHOLDERS if text.endswith(mark)]:
        text = text.removesuffix(found[0]).rstrip()
    return text
