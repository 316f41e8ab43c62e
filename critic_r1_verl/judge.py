# SPDX-License-Identifier: Apache-2.0
"""Pairs -> judgements: every pair in both orders, as often as the critic repeats, one line each as they arrive."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Completion, Engine, Request
from critic_r1_verl.journal import Journal, work_off
from critic_r1_verl.lines import Judgement, Key
from critic_r1_verl.records import ORDERS, Order, PairRecord, RecordFile

_Work = tuple[PairRecord, Order, int]
"""What one judgement needs: a pair, the order in which it is shown, and the number of the repeat."""


def judge(
    pairs: Collection[PairRecord] | RecordFile[PairRecord],
    engine: Engine,
    critic: PairwiseCritic,
    out: Path,
    *,
    root: Path,
    label: str = "judging",
) -> Journal[Judgement]:
    """Judge every pair in both orders; images lie under root. A pair that occurs several times is judged once.

    Resumes from what `out` already holds, and returns the journal, whose lines stay in the file. The orders and repeats of a pair follow
    each other, so that an engine finds their common beginning, the images first of all, in its prefix cache.
    """

    def todo() -> Iterator[tuple[Key, _Work]]:
        seen = set()
        for pair in pairs:
            if (pair_id := pair.pair_id) not in seen:
                seen.add(pair_id)
                for repeat in range(critic.repeats):
                    for order in ORDERS:
                        yield (pair_id, order, repeat), (pair, order, repeat)

    def ask(work: _Work) -> Request:
        pair, order, repeat = work
        return critic.request(pair, order, root, repeat)

    def tell(work: _Work, completions: Sequence[Completion]) -> list[Judgement]:
        return [critic.judgement(*work, completion, engine.name) for completion in completions]

    return work_off(Journal(out, Judgement), todo, engine, ask, tell, label, _Running(), ("pairs", len(ORDERS) * critic.repeats))


class _Running:
    """The score so far, shown beside the progress bar."""

    def __init__(self) -> None:
        self.right = self.unparsed = self.judged = 0

    def __call__(self, line: Judgement) -> str:
        self.judged += 1
        self.right += line.correct
        self.unparsed += line.choice is None
        unparsed = f", {self.unparsed} unparsed" if self.unparsed else ""
        return f"right {100 * self.right / self.judged:.1f} %{unparsed}"
