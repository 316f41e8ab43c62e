# SPDX-License-Identifier: Apache-2.0
"""POVID: answers of the training data of LLaVA, and the same answers with hallucinations that GPT-4V added.

Source: hub, YiyangAiLab/POVID_preference_data_for_VLLMs, one JSON list of about 17,000 rows; the images are COCO 2014 train, given by
--images (the folder of the files, or the folder that contains data/coco). Licence CC-BY-4.0. Schema grade A, the count C.
Label: the last turn of `conversations` over that of `rejected_conversations`.
Known defects: rejected answers are synthetic; VL-RewardBench was drawn from it.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.record import chosen_over, ends_with_model, pairs, with_other_path
from data_prep.corpus import Put, Skip
from data_prep.turns import asked

NAME = "povid"
HUB = "YiyangAiLab/POVID_preference_data_for_VLLMs"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = "cc-by-4.0"
GRADE = "A"
COLUMNS = {"image", "conversations", "rejected_conversations"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    dialogues: list[Any] = [raw.get("conversations"), raw.get("rejected_conversations")]
    if not all(map(ends_with_model, dialogues)):
        return [Skip("dialogue does not end with the model")]
    question, other = (asked(turns[:-1]) for turns in dialogues)
    if question != other:
        return [Skip("the two dialogues ask different things")]
    chosen, rejected = (turns[-1].get("value") for turns in dialogues)
    return pairs(with_other_path(put), raw.get("image"), question, [chosen_over(chosen, rejected)], source=NAME, licence=LICENCE)
