# SPDX-License-Identifier: Apache-2.0
"""What the two orders of a pair say together: rollout i of one order is compared with rollout i of the other, in one batch.

consistent    both verdicts name the same response of the record, or both a tie; an unparsed verdict agrees with none
strict        both verdicts are right
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from critic_r1_verl.records import Choice, to_record

Info = Mapping[str, float]
"""What compute_score says of a rollout."""

Paid = Literal["acc", "consistent", "strict"]
"""What earns the weight of the accuracy: the right verdict, the same verdict in both orders, or the right one in both."""

Group = Literal["prompt", "pair"]
"""Which rollouts a reward is compared with: those of the same prompt, or those of both orders of its pair."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A rollout of a batch. order is "" if it does not judge a pair; session counts the rollouts of one prompt; tokens of the response."""

    record_id: str
    order: str
    session: str
    source: str
    tokens: int
    info: Info


def check(paid: str, group: str, *, whole_steps: bool) -> bool:
    """Whether the two orders of a pair are needed in one batch. ValueError for a setting that does not exist, or cannot be had.

    whole_steps: a batch holds all rows of a step of the data, and not those that were ready first.
    """
    for key, value, allowed in (("paid", paid, get_args(Paid)), ("group", group, get_args(Group))):
        if value not in allowed:
            raise ValueError(f"critic_r1.{key}={value}: give one of {', '.join(allowed)}")
    needed = paid != "acc" or group == "pair"
    if needed and not whole_steps:
        raise ValueError(
            f"critic_r1.paid={paid} critic_r1.group={group} needs both orders of each pair in one step: not with "
            "algorithm.filter_groups.enable=true, and only with trainer.v1.trainer_mode=sync"
        )
    return needed


def compared(rollouts: Sequence[Rollout]) -> list[Info]:
    """The info of each rollout, with "consistent" and "strict" if the batch holds the same rollout of its pair's other order."""
    by_key = {(rollout.record_id, rollout.session, rollout.order): rollout for rollout in rollouts if rollout.order}

    def together(rollout: Rollout) -> Info:
        other = by_key.get((rollout.record_id, rollout.session, "21" if rollout.order == "12" else "12"))
        if not rollout.order or other is None:
            return rollout.info
        choice = _choice(rollout)
        consistent = choice is not None and choice == _choice(other)
        strict = rollout.info["acc"] == other.info["acc"] == 1
        return {**rollout.info, "consistent": float(consistent), "strict": float(strict)}

    return [together(rollout) for rollout in rollouts]


def check_orders(rollouts: Sequence[Rollout], infos: Sequence[Info]) -> None:
    """ValueError if the batch holds verdicts, and both orders of no pair."""
    verdicts = [info for rollout, info in zip(rollouts, infos, strict=True) if rollout.order]
    if verdicts and not any("strict" in info for info in verdicts):
        raise ValueError(
            "critic_r1.paid or critic_r1.group needs both orders of each pair in one step, and no pair of this step has both; add "
            "critic_r1.rows.orders=together data.shuffle=false, with an even data.train_batch_size"
        )


def added_scores(rollouts: Sequence[Rollout], infos: Sequence[Info], paid: Paid, accuracy_weight: float) -> list[float]:
    """What to add to the score of each rollout so that a verdict is paid for infos[...][paid] instead of acc.

    A verdict whose other order was lost, by an error in its rollout, earns nothing.
    """
    return [
        accuracy_weight * (info.get(paid, 0.0) - info["acc"]) if rollout.order else 0.0
        for rollout, info in zip(rollouts, infos, strict=True)
    ]


def metrics(rollouts: Sequence[Rollout], infos: Sequence[Info]) -> dict[str, float]:
    """Means over the rollouts of a batch, in [0, 1], over all as reward/PART/mean and of each source as reward/SOURCE/PART/mean.

    Parts: acc, format, unparsed (1 - parsed) and, over verdicts, first, tie, consistent and strict. Empty without rollouts.
    """
    found: dict[str, float] = {}
    sources = Counter(rollout.source for rollout in rollouts)
    for source in ("", *sources):
        mine = [(rollout, info) for rollout, info in zip(rollouts, infos, strict=True) if source in ("", rollout.source)]
        verdicts = [info for rollout, info in mine if rollout.order]
        parts = {part: _mean(info[part] for _, info in mine) for part in ("acc", "format", "parsed")}
        parts["unparsed"] = None if parts["parsed"] is None else 1 - parts["parsed"]
        parts |= {part: _mean(info[part] for info in verdicts if part in info) for part in ("first", "tie", "consistent", "strict")}
        del parts["parsed"]
        found |= {f"reward/{source}/{part}/mean".replace("//", "/"): value for part, value in parts.items() if value is not None}
    return found


def _choice(rollout: Rollout) -> Choice | None:
    """The choice of a verdict in the frame of its record."""
    info = rollout.info
    if not info["parsed"]:
        return None
    return to_record(rollout.order, "tie" if info["tie"] else "1" if info["first"] else "2")


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
