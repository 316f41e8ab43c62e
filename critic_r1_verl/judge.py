# SPDX-License-Identifier: Apache-2.0
"""Let a critic judge pairs in both orders, critic.repeats times each. Each judgement is written as one line as soon as it arrives."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Completion, Engine, Request
from critic_r1_verl.journal import MAX_REFUSED, Journal, run_remaining
from critic_r1_verl.lines import Judgement, Key
from critic_r1_verl.records import ORDERS, Order, PairRecord, RecordFile

_Task = tuple[PairRecord, Order, int]
"""One judgement to make: the pair, the order in which it is shown, and the index of the repeat."""


def judge(
    pairs: Collection[PairRecord] | RecordFile[PairRecord],
    engine: Engine,
    critic: PairwiseCritic,
    out: Path,
    *,
    root: Path,
    label: str = "judging",
    max_refused: float = MAX_REFUSED,
) -> Journal[Judgement]:
    """Judge every pair in both orders and return the journal, sorted by key. Image paths are relative to root.

    Judgements that the file `out` already holds are skipped. A pair that occurs several times is judged once. All requests about one pair
    are consecutive, so that the engine's prefix cache can reuse their common beginning, above all the images. max_refused as in
    run_remaining.
    """

    def tasks() -> Iterator[tuple[Key, _Task]]:
        seen = set()
        for pair in pairs:
            if (pair_id := pair.pair_id) not in seen:
                seen.add(pair_id)
                for repeat in range(critic.repeats):
                    for order in ORDERS:
                        yield (pair_id, order, repeat), (pair, order, repeat)

    def to_request(task: _Task) -> Request:
        pair, order, repeat = task
        return critic.request(pair, order, root, repeat)

    def to_lines(task: _Task, completions: Sequence[Completion]) -> list[Judgement]:
        return [critic.judgement(*task, completion, engine.name) for completion in completions]

    unit = ("pairs", len(ORDERS) * critic.repeats)
    status = _RunningAccuracy()
    return run_remaining(Journal(out, Judgement), tasks, engine, to_request, to_lines, label, status, unit, max_refused)


class _RunningAccuracy:
    """The accuracy so far, shown beside the progress bar."""

    def __init__(self) -> None:
        self.correct = self.unparsed = self.judged = 0

    def __call__(self, line: Judgement) -> str:
        self.judged += 1
        self.correct += line.correct
        self.unparsed += line.choice is None
        unparsed = f", {self.unparsed} unparsed" if self.unparsed else ""
        return f"right {100 * self.correct / self.judged:.1f} %{unparsed}"
