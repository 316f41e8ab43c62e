# SPDX-License-Identifier: Apache-2.0
"""Your own pairs: --corpus pairs:FILE, in any layout that layouts.py recognises by its columns, with images in any form (image_forms.py).

Columns of our own: image or images (none for a pair without image), question, and either chosen and rejected, or response_1, response_2 and
preferred. A column category is kept. --column renames columns before this module reads them.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora import layouts, record
from data_prep.corpus import Put, SchemaError, Skip

NAME = "pairs"
HUB = None
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = ""
GRADE = "A"
COLUMNS: set[str] = set()


def LABEL(raw: dict[str, Any]) -> str:
    """The column with the label of a row; "" if its columns say which response is better."""
    try:
        return next((layout.label for layout in layouts.recognise(frozenset(raw)) if layout.label), "")
    except SchemaError:
        return ""


def layout(raw: dict[str, Any]) -> str:
    """The name of the layout in which a row that is a pair was read."""
    return str(layouts.read(raw)[1])


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    try:
        read, _ = layouts.read(raw)
    except layouts.NoPair as error:
        return [error.reason]
    candidate = (read.first, read.second, read.preferred)
    category = raw.get("category")
    images = list(read.images)
    return record.pairs(put, images, read.question(), [candidate], source=NAME, licence=LICENCE, category=category, without_images=True)
