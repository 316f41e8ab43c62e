# SPDX-License-Identifier: Apache-2.0
"""ThinkLite-VL-hard-11k: visual questions that a 7B model rarely answers at the first attempt. Policy data.

Source: hub, russwang/ThinkLite-VL-hard-11k, split train, about 11,000 rows in one parquet file. Licence MIT as for a related set.
Schema grade C: the columns are known from loaders by others; an `image` other than the bytes of the file or {bytes, path} stops the build.
Known defects: images with a side of less than 28 pixels.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.record import question, typed
from data_prep.corpus import Put, Skip

NAME = "thinklite_hard"
HUB = "russwang/ThinkLite-VL-hard-11k"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = "mit"
GRADE = "C"
COLUMNS = {"problem", "answer", "image"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One question."""
    image = typed(raw, "image", bytes, dict)
    return question(put, image, raw.get("problem"), raw.get("answer"), source=NAME, licence=LICENCE)
