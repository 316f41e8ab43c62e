# SPDX-License-Identifier: Apache-2.0
"""MMPR (v1, v1.1, v1.2): right over wrong reasoned answers, and whole answers over answers whose second half was written without the image.

Source: hub, OpenGVLab/MMPR-v1.2; about 3 million rows in the JSONL files of annotations.zip that meta.json lists. Unpack annotations and
images beside meta.json and give the folder. Licence MIT. Schema grade A for the columns, B for the files.
Label: chosen over rejected: decided by the final answer, or because the image was not used for the second half.
Known defects: both answers of the second kind share their first half; some rows have no image, several images or a video.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.record import chosen_over, pairs
from data_prep.corpus import Put, Skip

NAME = "mmpr"
HUB = "OpenGVLab/MMPR-v1.2"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = "mit"
GRADE = "B"
COLUMNS = {"question", "chosen", "rejected"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    if raw.get("video"):
        return [Skip("video")]
    candidate = chosen_over(raw.get("chosen"), raw.get("rejected"))
    return pairs(put, raw.get("image"), raw.get("question"), [candidate], source=NAME, licence=LICENCE)
