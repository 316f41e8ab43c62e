# SPDX-License-Identifier: Apache-2.0
"""What all converters end with: checked texts, a known label, stored images, a record. Whatever cannot be used is a Skip."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, TypeVar

from critic_r1_verl.images import BadImage
from critic_r1_verl.records import Choice, Image, PairRecord, QuestionRecord, Record
from data_prep.corpus import Put, SchemaError, Skip, bad_text, is_utf8, strip_placeholders

Label = TypeVar("Label")
Candidate = tuple[Any, Any, Choice]
"""response_1, response_2 and which of them is better."""

MAX_ANSWER_WORDS = 5
# Not the names of LaTeX commands, nor single letters, which are unknowns or options.
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def pairs(
    put: Put, images: Any, question: Any, candidates: Iterable[Candidate | Skip], *, source: str, licence: str, category: Any = ""
) -> list[Record | Skip]:
    """One PairRecord or Skip for each candidate, in their order. images is one raw image or a list of them; none at all is one Skip."""
    given = images_of(images)
    text = named_images(question, len(given))
    checked = [found if isinstance(found, Skip) else bad_text(text, found[0], found[1]) or found for found in candidates]
    if all(isinstance(found, Skip) for found in checked):
        return [found for found in checked if isinstance(found, Skip)]
    if not given:
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
    """The one QuestionRecord or Skip of a row of policy data; an answer in prose is skipped, because no reward can verify it."""
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
    """What a label means, whatever its case and however numbers are stored. Skip if there is none; SchemaError if it is not in meanings."""
    if value is None or value == "" or value != value:
        return Skip("no label")
    word = str(int(value) if isinstance(value, float) and value.is_integer() else value)
    word = " ".join(word.lower().split()).removesuffix(".")
    if word not in meanings:
        raise SchemaError(f"key {key!r}: found {value!r:.200}, expected one of {', '.join(map(repr, meanings))}")
    return meanings[word]


def images_of(value: Any) -> list[Any]:
    """The raw images in a column that holds one, several or none."""
    return [image for image in (value if isinstance(value, list) else [value]) if image]


def by_path_or_name(put: Put) -> Put:
    """put, for downloads whose folders may be laid out otherwise: a path that is not there is looked for by its bare file name."""

    def stored(raw: Any) -> Image:
        try:
            return put(raw)
        except BadImage as error:
            if error.reason != "no such file" or "/" not in raw:
                raise
            return put(PurePosixPath(raw).name)

    return stored


def named_images(text: Any, num_images: int) -> Any:
    """A question without placeholders at its ends; where one stands within the text and each has its image, they become [image 1], ..."""
    if not isinstance(text, str):
        return text
    inner = strip_placeholders(text)
    before, *after = text.split("<image>")
    if "<image>" not in inner or len(after) != num_images:
        return inner
    return (before + "".join(f"[image {number}]{part}" for number, part in enumerate(after, start=1))).strip()


def typed(raw: Mapping[str, Any], key: str, *kinds: type) -> Any:
    """raw[key], for schemas that are not certain: SchemaError if it is of none of these kinds; a null gives an empty one of the first."""
    value = raw.get(key)
    if value is None or value != value:
        return kinds[0]()
    if not isinstance(value, kinds):
        raise SchemaError(f"key {key!r}: found {value!r:.200}, expected {' or '.join(kind.__name__ for kind in kinds)}")
    return value


def chosen_over(chosen: Any, rejected: Any) -> Candidate:
    """The pair of a corpus that tells the better response by its column."""
    return chosen, rejected, "1"


def _plain(text: Any) -> str:
    """A text that a record can hold; "" for anything else."""
    return text if isinstance(text, str) and is_utf8(text) else ""
