# SPDX-License-Identifier: Apache-2.0
"""What a corpus module gives and what it is given; corpora/ holds one such module for each corpus.

A module has the constants NAME, HUB (hub id or None), CONFIG (None), SPLIT, REVISION, LICENCE ("" if none is stated), GRADE (of the
documented schema, "A".."D") and COLUMNS (the columns that must be there), where a folder holds the same data twice FILES (the names of
which the first one found is read), and one function,

    convert(raw: dict, put: Put) -> Iterable[Record | Skip]

pure apart from put, which it calls last, once the text and the label of the row are good. Each Record and each Skip counts as one read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from critic_r1_verl.records import Image

Put = Callable[[Any], Image]
"""A raw image (bytes, {"bytes", "path"}, a PIL image, or a path relative to the corpus's images) -> the stored one; raises BadImage."""

_PLACEHOLDERS = ("<image>", "<video>", "<audio>")
_SPEAKERS = {"human": "User", "user": "User", "gpt": "Assistant", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Skip:
    """A row, or one pair of it, that cannot be used. reason is a short closed phrase ("tie"), never content of the row."""

    reason: str


class SchemaError(ValueError):
    """A row or table that is not in the documented schema: says key, what was found, what was expected; the builder adds corpus and row."""


def is_utf8(text: str) -> bool:
    """Whether a text can be written: JSON can hold one that cannot, with half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bad_text(question: Any, *responses: Any) -> Skip | None:
    """Why these texts give no record, or None if they do: to be asked before any image is stored.

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


def fold_turns(turns: Any) -> str:
    """A dialogue that ends with the user's turn, as one question; "" for anything else, which the caller skips.

    turns are {"from": "human" | "gpt", "value": text} or {"role": "user" | "assistant", "content": text}. One turn stays as it is.

    >>> fold_turns([{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Who?"}])
    'User: Hi.\\n\\nAssistant: Hello.\\n\\nUser: Who?'
    """
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return ""
    speakers = [_SPEAKERS.get(str(turn.get("from", turn.get("role")))) for turn in turns]
    texts = [turn.get("value", turn.get("content")) for turn in turns]
    if None in speakers or speakers[-1] != "User" or not all(isinstance(text, str) for text in texts):
        return ""
    texts = [strip_placeholders(text) for text in texts]
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"{speaker}: {text}" for speaker, text in zip(speakers, texts, strict=True))


def strip_placeholders(text: str) -> str:
    """The text without the image placeholders at its two ends; the prompt puts its own in front. One in the middle stays (and is escaped).

    >>> strip_placeholders("<image>\\nWhat is it?")
    'What is it?'
    """
    text = text.strip()
    while found := [mark for mark in _PLACEHOLDERS if text.startswith(mark)]:
        text = text.removeprefix(found[0]).lstrip()
    while found := [mark for mark in _PLACEHOLDERS if text.endswith(mark)]:
        text = text.removesuffix(found[0]).rstrip()
    return text
