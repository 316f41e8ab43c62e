# SPDX-License-Identifier: Apache-2.0
"""LLaVA-Critic-113k, pairwise: a question and two responses in a judge's prompt, and GPT-4o's rationale, which ends in a verdict.

Source: hub, lmms-lab/llava-critic-113k, config pairwise, split train, 40,154 rows. Licence Apache-2.0.
Schema grade A for the columns, C for the texts (known from one parser by others): what cannot be parsed is skipped with a count.
Label: the bracketed word after "The better response:" (1, 2, first, second; A, B where the prompt calls the responses so); without one,
"equally good" at the end is a tie. A row with any other word is skipped with a count: the word is free text of a model, so it is a bad row,
not another schema.
Known defects: brackets inside responses; rationales with two verdicts; the pairs come from VLFeedback, LLaVA-RLHF and RLHF-V, as do some of
VL-RewardBench (see --decontaminate). The config pointwise is not read: its rows are skipped as prompts in no known form.
"""

import re
from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Choice, Record
from data_prep.corpora.critic_prompt import parts
from data_prep.corpora.critic_verdict import verdict
from data_prep.corpora.record import pairs, typed
from data_prep.corpus import Put, SchemaError, Skip

NAME = "llava_critic_113k"
HUB = "lmms-lab/llava-critic-113k"
CONFIG = "pairwise"
SPLIT = "train"
REVISION = "7aa893ac47197c8300d7399d921836e12ceb5499"
LICENCE = "apache-2.0"
GRADE = "C"
COLUMNS = {"source", "conversations", "image"}

_BETTER = re.compile(r"the better response: ?(?:\[([^\[\]\n]{1,40})\]|(\w{1,10}))")
_TIE, _TIE_CHARS = "equally good", 300


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    turns = typed(raw, "conversations", list)
    if not turns:
        return [Skip("no dialogue")]
    if [isinstance(turn, dict) and turn.get("from") for turn in turns] != ["human", "gpt"]:
        raise SchemaError(f"key 'conversations': found {turns!r:.200}, expected a human and a gpt turn")
    prompt, rationale = (turn.get("value") for turn in turns)
    if not isinstance(prompt, str) or not isinstance(rationale, str):
        return [Skip("turn is not a text")]
    found = parts(prompt)
    if isinstance(found, Skip):
        return [found]
    preferred = _verdict(rationale.lower(), found.lettered)
    if isinstance(preferred, Skip):
        return [preferred]
    candidate = (found.first, found.second, preferred)
    return pairs(put, raw.get("image"), found.question, [candidate], source=NAME, licence=LICENCE, category=raw.get("source"))


def _verdict(rationale: str, lettered: bool) -> Choice | Skip:
    words = {bracketed.strip() or bare for bracketed, bare in _BETTER.findall(rationale)}
    verdicts = {verdict(word, lettered=lettered) for word in words}
    if len(verdicts) > 1:
        return Skip("verdicts differ")
    if not verdicts:
        return "tie" if _TIE in rationale[-_TIE_CHARS:] else Skip("no verdict")
    return verdicts.pop() or Skip("verdict is not known")
