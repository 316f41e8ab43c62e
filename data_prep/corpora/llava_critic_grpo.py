# SPDX-License-Identifier: Apache-2.0
"""LLaVA-Critic-GRPO-dataset: the pairs that LLaVA-Critic-R1 was trained on, each given as the prompt of a judge.

Source: hub, lmms-lab/LLaVA-Critic-GRPO-dataset, split train, about 40,200 rows (its authors validate on them too). No licence is stated.
Schema grade C: the columns are known from the loader of the authors; card and rows were not seen, and the values of `answer` are not
documented. So what is beyond doubt is read (critic_verdict.py), every other answer is counted by its spelling (vocabulary.py), and the
category of a pair is its answer.
Label: `answer` names the better response, or says that both are equally good (tie).
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.critic_prompt import parts
from data_prep.corpora.critic_verdict import verdict
from data_prep.corpora.record import pairs, typed
from data_prep.corpus import Put, Skip
from data_prep.vocabulary import spelling, unread

NAME = "llava_critic_grpo"
HUB = "lmms-lab/LLaVA-Critic-GRPO-dataset"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = ""
GRADE = "C"
COLUMNS = {"question", "answer", "image"}
LABEL = "answer"


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    answer = raw.get(LABEL)
    if answer is None or answer != answer or answer == "":
        return [Skip("no label")]
    found = parts(typed(raw, "question", str))
    if isinstance(found, Skip):
        return [found]
    preferred = verdict(spelling(answer, whole=True), lettered=found.lettered)
    if preferred is None:
        return [unread(answer)]
    candidate, category = (found.first, found.second, preferred), f"answer {answer}"
    return pairs(put, raw.get("image"), found.question, [candidate], source=NAME, licence=LICENCE, category=category)
