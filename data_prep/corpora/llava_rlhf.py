# SPDX-License-Identifier: Apache-2.0
"""LLaVA-RLHF human preferences: two answers of LLaVA-7B to the last question of a dialogue, compared by people.

Source: hub, zhiqings/LLaVA-Human-Preference-10K, split train, 9,422 rows in one JSON list; the images are COCO 2017 train, or COCO 2014
train with its longer names, given by --images. Licence Apache-2.0. Schema grade B.
Label: preference 1 means output_1, 2 means output_2; there are no ties, and any other value stops the build.
Known defects: the last turn is the model's and only holds the place of the two outputs; earlier turns belong to the question.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.images import BadImage
from critic_r1_verl.records import Choice, Image, Record
from data_prep.corpora.record import label, pairs
from data_prep.corpus import Put, Skip, fold_turns

NAME = "llava_rlhf"
HUB = "zhiqings/LLaVA-Human-Preference-10K"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = "apache-2.0"
GRADE = "B"
COLUMNS = {"image", "conversations", "output_1", "output_2", "preference"}

_PREFERENCES: dict[str, Choice] = {"1": "1", "2": "2"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    preferred = label("preference", raw.get("preference"), _PREFERENCES)
    if isinstance(preferred, Skip):
        return [preferred]
    turns = raw.get("conversations")
    if isinstance(turns, list) and turns and isinstance(turns[0], list):
        turns = turns[0]
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict) or turns[-1].get("from") != "gpt":
        return [Skip("dialogue does not end with the model")]
    outputs = [output.get("value") if isinstance(output, dict) else output for output in (raw.get("output_1"), raw.get("output_2"))]
    candidate = (outputs[0], outputs[1], preferred)

    def coco(name: Any) -> Image:
        try:
            return put(name)
        except BadImage as error:
            if error.reason != "no such file":
                raise
            return put(f"COCO_train2014_{name}")

    return pairs(coco, raw.get("image"), fold_turns(turns[:-1]), [candidate], source=NAME, licence=LICENCE)
