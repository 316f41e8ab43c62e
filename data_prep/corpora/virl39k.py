# SPDX-License-Identifier: Apache-2.0
"""ViRL39K: verifiable visual questions collected from many sets. Policy data.

Source: hub, TIGER-Lab/ViRL39K, split train, 38,870 rows; unpack images.zip beside the parquet file. Licence MIT.
Schema grade C: the columns are known from loaders by others; an image column that is not a list stops, an answer without a box is skipped.
Known defects: `datasets` reads the image archive as data, so give a local folder; 9,978 rows have several images.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from critic_r1_verl.verdict import parse_answer
from data_prep.corpora.record import question, typed
from data_prep.corpus import Put, Skip

NAME = "virl39k"
HUB = "TIGER-Lab/ViRL39K"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = "mit"
GRADE = "C"
COLUMNS = {"question", "answer", "image"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One question."""
    images = typed(raw, "image", list)
    answer = parse_answer(typed(raw, "answer", str)).text
    if answer is None:
        return [Skip("answer is not one box")]
    return question(put, images, raw.get("question"), answer, source=NAME, licence=LICENCE, category=raw.get("category"))
