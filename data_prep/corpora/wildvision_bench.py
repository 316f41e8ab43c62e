# SPDX-License-Identifier: Apache-2.0
"""The judgements of WildVision-Bench, data/*/model_judgements in its repository: a model's answer against that of a reference model.

A line holds question_id, model and games; a game has user_prompt, the parts of the judge's prompt (the two answers, between headings; the
image, named by a hash), and score, the judge's verdict in five levels. The files of the images are expected by this name, with a suffix.
Source: WildVision-AI/WildVision-Bench at ead4653. In show_results.py of this repository, [[A>>B]] counts three times as much as [[A>B]].
"""

import re
from collections.abc import Mapping
from typing import Any

from critic_r1_verl.images import BadImage
from critic_r1_verl.records import Choice, Image, Record
from data_prep.corpora.record import label, pairs, typed
from data_prep.corpus import Put, SchemaError, Skip

LEVELS: dict[str, Choice] = {"a>>b": "1", "a>b": "1", "a=b": "tie", "b>a": "2", "b>>a": "2"}

_PROMPT = re.compile(
    r"<\|User Prompt\|>\n(.*)\n\n<\|The Start of Assistant A's Answer\|>\n(.*)\n<\|The End of Assistant A's Answer\|>\n\n"
    r"<\|The Start of Assistant B's Answer\|>\n(.*)\n<\|The End of Assistant B's Answer\|>\s*",
    re.DOTALL,
)


def judged(raw: Mapping[str, Any], put: Put, *, source: str, licence: str) -> list[Record | Skip]:
    """One pair or Skip for each game."""
    games = typed(raw, "games", list)
    return [found for game in games for found in _pair(game, put, source, licence)] if games else [Skip("no games")]


def _pair(game: Any, put: Put, source: str, licence: str) -> list[Record | Skip]:
    parts = game.get("user_prompt") if isinstance(game, dict) else None
    if isinstance(game, dict) and parts is None:
        return [Skip("no prompt")]
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise SchemaError(f"key 'games': found {game!r:.200}, expected user_prompt, a list of parts, and score")
    preferred = label("games.score", game.get("score"), LEVELS)
    if isinstance(preferred, Skip):
        return [preferred]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    found = _PROMPT.fullmatch(texts[0]) if len(texts) == 1 else None
    # A heading inside an answer would part the text elsewhere.
    if not found or texts[0].count("<|The Start of Assistant") != 2:
        return [Skip("parts of the prompt cannot be told apart")]
    question, first, second = found.groups()
    images = [part["image"] for part in parts if part.get("image")]
    return pairs(put, images, question, [(first, second, preferred)], source=source, licence=licence)


def with_suffix(put: Put) -> Put:
    """put for images that are named without the suffix of their file."""

    def stored(raw: Any) -> Image:
        for suffix in ("", ".png", ".jpg", ".jpeg", ".webp"):
            try:
                return put(raw + suffix if isinstance(raw, str) else raw)
            except BadImage as error:
                if error.reason != "no such file" or not isinstance(raw, str):
                    raise
        raise BadImage("no such file")

    return stored
