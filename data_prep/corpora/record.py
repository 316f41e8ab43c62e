# SPDX-License-Identifier: Apache-2.0
"""The last steps of all converters: check the texts and the label, store the images, make the record. Bad rows become a Skip."""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import PurePosixPath
from typing import Any, TypeVar

from critic_r1_verl.images import BadImage
from critic_r1_verl.records import Choice, Image, PairRecord, QuestionRecord, Record
from data_prep.corpus import Put, SchemaError, Skip, bad_text, is_utf8, strip_placeholders

Label = TypeVar("Label")
Candidate = tuple[Any, Any, Choice]
"""response_1, response_2, and which of them is better."""

MAX_ANSWER_WORDS = 5
# Names of LaTeX commands and single letters, which are unknowns or options, are not words.
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def pairs(
    put: Put,
    images: Any,
    question: Any,
    candidates: Iterable[Candidate | Skip],
    *,
    source: str,
    licence: str,
    category: Any = "",
    without_images: bool = False,
) -> list[Record | Skip]:
    """One PairRecord or Skip for each candidate, in their order.

    images: one raw image or a list; without any, one Skip for the row unless without_images.
    """
    given = images_of(images)
    text = named_images(question, len(given))
    checked = [found if isinstance(found, Skip) else bad_text(text, found[0], found[1]) or found for found in candidates]
    if all(isinstance(found, Skip) for found in checked):
        return [found for found in checked if isinstance(found, Skip)]
    if not given and not without_images:
        return [Skip("no image")]
    stored = tuple(put(image) for image in given)
    return [
        found
        if isinstance(found, Skip)
        else PairRecord(
            images=stored,
            question=text,
            response_1=found[0],
            response_2=found[1],
            preferred=found[2],
            source=source,
            category=_plain(category),
            licence=licence,
        )
        for found in checked
    ]


def question(put: Put, images: Any, text: Any, answer: Any, *, source: str, licence: str, category: Any = "") -> list[Record | Skip]:
    """The one QuestionRecord or Skip of a row of policy data. An answer in prose is skipped, because the reward cannot verify it."""
    given = images_of(images)
    text = named_images(text, len(given))
    if problem := bad_text(text):
        return [problem]
    if not isinstance(answer, str) or _plain(answer) != answer:
        return [Skip("answer is not a text")]
    if not answer.strip():
        return [Skip("empty answer")]
    if len(_WORD.findall(answer)) > MAX_ANSWER_WORDS:
        return [Skip("answer is prose")]
    if not given:
        return [Skip("no image")]
    stored = tuple(put(image) for image in given)
    return [QuestionRecord(images=stored, question=text, answer=answer, source=source, category=_plain(category), licence=licence)]


def label(key: str, value: Any, meanings: Mapping[str, Label]) -> Label | Skip:
    """The meaning of a label, in any case and number type. Skip if there is no label; SchemaError if the label is not in meanings."""
    if value is None or value == "" or value != value:
        return Skip("no label")
    word = str(int(value) if isinstance(value, float) and value.is_integer() else value)
    word = " ".join(word.lower().split()).removesuffix(".")
    if word not in meanings:
        raise SchemaError(f"key {key!r}: found {value!r:.200}, expected one of {', '.join(map(repr, meanings))}")
    return meanings[word]


def images_of(value: Any) -> list[Any]:
    """The raw images of a column that holds one, several or none."""
    return [image for image in (value if isinstance(value, list) else [value]) if image and image == image]


def with_other_path(put: Put, other: Callable[[str], str] = lambda path: PurePosixPath(path).name) -> Put:
    """put for downloads with another layout: if a path does not exist, other(path) is tried, by default the bare file name."""

    def stored(raw: Any) -> Image:
        try:
            return put(raw)
        except BadImage as error:
            if error.reason != "no such file" or not isinstance(raw, str):
                raise
            return put(other(raw))

    return stored


def ends_with_model(turns: Any) -> bool:
    """Whether a dialogue, turns {"from", "value"}, ends with a turn of the model."""
    return isinstance(turns, list) and bool(turns) and isinstance(turns[-1], dict) and turns[-1].get("from") == "gpt"


def named_images(text: Any, num_images: int) -> Any:
    """A question without placeholders at its ends. If one is inside the text and there is one for each image, all become [image 1], ..."""
    if not isinstance(text, str):
        return text
    stripped = strip_placeholders(text)
    before, *after = text.split("<image>")
    if "<image>" not in stripped or len(after) != num_images:
        return stripped
    return (before + "".join(f"[image {number}]{part}" for number, part in enumerate(after, start=1))).strip()


def typed(raw: Mapping[str, Any], key: str, *kinds: type) -> Any:
    """raw[key], for schemas that are not certain; for null an empty value of the first kind. SchemaError if it has none of these kinds."""
    value = raw.get(key)
    if value is None or value != value:
        return kinds[0]()
    if not isinstance(value, kinds):
        raise SchemaError(f"key {key!r}: found {value!r:.200}, expected {' or '.join(kind.__name__ for kind in kinds)}")
    return value


def by_score(answers: Iterable[tuple[Any, float | None]], missing: str) -> list[Candidate | Skip]:
    """A candidate for each two answers (response, score); the higher score is better. Skip("tie") if equal, Skip(missing) for None."""
    candidates: list[Candidate | Skip] = []
    for (response_1, score_1), (response_2, score_2) in combinations(answers, 2):
        if score_1 is None or score_2 is None:
            candidates.append(Skip(missing))
        elif score_1 == score_2:
            candidates.append(Skip("tie"))
        else:
            candidates.append((response_1, response_2, "1" if score_1 > score_2 else "2"))
    return candidates


def chosen_over(chosen: Any, rejected: Any) -> Candidate:
    """The pair of a corpus that has one column for the better and one for the worse response."""
    return chosen, rejected, "1"


def _plain(text: Any) -> str:
    """The text, or "" for a value that a record cannot hold."""
    return text if isinstance(text, str) and is_utf8(text) else ""
