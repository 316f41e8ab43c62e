# SPDX-License-Identifier: Apache-2.0
"""Dialogues as people store them: turns {"role", "content"} or {"from", "value"}, whose content is a text or a list of parts."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.corpus import IMAGE, Skip, strip_placeholders

SPEAKERS = {
    **dict.fromkeys(("human", "user"), "User"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "bot"), "Assistant"),
    "system": "System",
}

_TRANSCRIPT = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")

NO_DIALOGUE = Skip("dialogue is not a list of turns")


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn. speaker: User, Assistant or System. images: the raw images of its parts; where each stands, the text has a placeholder."""

    speaker: str
    text: str
    images: tuple[Any, ...] = ()


def read(value: Any, speaker: str) -> list[Turn] | Skip:
    """The turns of a dialogue, of one turn, or of a text, which is a turn of this speaker. A system turn without text is left out.

    A dialogue may also be a dict of lists, as `datasets` stores it, JSON in a text, as a CSV file holds it, or a transcript of HH-RLHF.
    """
    if isinstance(value, str):
        parsed = _from_json(value) or _from_transcript(value)
        if parsed is None:
            return [Turn(speaker, value)]
        value = parsed
    if isinstance(value, Mapping):
        columns = list(value.values())
        as_lists = bool(columns) and all(isinstance(column, list) for column in columns) and _is_turn(value)
        value = [dict(zip(value, row, strict=False)) for row in zip(*columns, strict=False)] if as_lists else [value]
    if not isinstance(value, list) or not value:
        return NO_DIALOGUE
    turns = []
    for raw in value:
        if not isinstance(raw, Mapping) or not _is_turn(raw):
            return NO_DIALOGUE
        turn = _turn(raw)
        if isinstance(turn, Skip):
            return turn
        if turn.speaker != "System" or turn.text.strip():
            turns.append(turn)
    return turns or NO_DIALOGUE


def fold(turns: Sequence[Turn], num_images: int = 0) -> str:
    """The turns as one text; a single turn of the user or the model stays as it is, without placeholders at its ends.

    If there is one placeholder for each of several images (num_images), they become [image 1], [image 2], ...

    >>> fold([Turn("User", "Hi."), Turn("Assistant", "Hello."), Turn("User", "Who?")])
    'User: Hi.\\n\\nAssistant: Hello.\\n\\nUser: Who?'
    """
    if len(turns) == 1 and turns[0].speaker != "System":
        return turns[0].text if num_images else strip_placeholders(turns[0].text)
    texts = [turn.text for turn in turns]
    if num_images > 1 and sum(text.count(IMAGE) for text in texts) == num_images:
        for number in range(num_images):
            place = next(place for place, text in enumerate(texts) if IMAGE in text)
            texts[place] = texts[place].replace(IMAGE, f"[image {number + 1}]", 1)
    return "\n\n".join(f"{turn.speaker}: {strip_placeholders(text)}" for turn, text in zip(turns, texts, strict=True))


def asked(value: Any) -> str:
    """A dialogue that ends with a turn of the user as one question; "" for anything else, which the caller skips."""
    turns = read(value, "User") if isinstance(value, list) else []
    return fold(turns) if isinstance(turns, list) and turns and turns[-1].speaker == "User" else ""


def _is_turn(value: Mapping[str, Any]) -> bool:
    return {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()


def _from_json(text: str) -> Any:
    """The dialogue in a text that is JSON; None for any other text, which may well be JSON that somebody asked for."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    turns = value if isinstance(value, list) else [value]
    return value if turns and all(isinstance(turn, dict) and _is_turn(turn) for turn in turns) else None


def _from_transcript(text: str) -> Any:
    """The dialogue in a text of the form "Human: Who?\\n\\nAssistant: Me."; None for any other text. An empty last answer is left out."""
    start, *parts = _TRANSCRIPT.split(text)
    if start or "Assistant" not in parts[::2] or parts[0] != "Human":
        return None
    turns = [{"role": role.lower(), "content": content.strip()} for role, content in zip(parts[::2], parts[1::2], strict=True)]
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def _turn(raw: Mapping[str, Any]) -> Turn | Skip:
    role, content = (raw["role"], raw["content"]) if "role" in raw else (raw["from"], raw["value"])
    speaker = SPEAKERS.get(role.lower()) if isinstance(role, str) else None
    if speaker is None:
        return Skip("turn of an unknown role")
    if isinstance(content, str):
        return Turn(speaker, content)
    if not isinstance(content, list):
        return Skip("turn is not a text")
    texts: list[str] = []
    images: list[Any] = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        kind = str(part.get("type") or "") if isinstance(part, Mapping) else "text"
        if isinstance(text, str) and kind in ("text", "input_text", "output_text", ""):
            # Chat templates put parts together without a space between two texts.
            between = "\n" if texts and texts[-1] != IMAGE and not (texts[-1][-1:] + text[:1]).isspace() else ""
            texts.append(between + text)
        elif isinstance(part, Mapping) and (kind in ("image", "image_url", "input_image") or {"image", "image_url"} & part.keys()):
            texts.append(IMAGE)
            payload = {key: value for key, value in part.items() if key not in ("type", "text", "detail") and value is not None}
            images += [payload] if payload else []
        else:
            return Skip("turn holds a part that is neither a text nor an image")
    return Turn(speaker, "".join(texts), tuple(images))
