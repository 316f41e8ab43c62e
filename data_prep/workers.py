# SPDX-License-Identifier: Apache-2.0
"""Converts the shards of a plan, in this process or in several, with a progress bar."""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from critic_r1_verl import foreign
from data_prep import shards


def convert_all(tasks: Sequence[shards.Task], num_workers: int) -> list[shards.Counts]:
    """Convert every shard that is not finished yet, and return the counts of all shards in the order of the tasks.

    num_workers is the number of processes; with 1 the work is done in this process. ValueError if a worker was killed.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    if done := sum(task.result.exists() for task in tasks):
        foreign.say(f"resuming: {done} of {len(tasks)} shards are finished", stderr=True)
    columns = ("converting", BarColumn(), MofNCompleteColumn(), "rows", TimeRemainingColumn())
    with Progress(*columns, console=foreign.console(stderr=True)) as progress:
        bar = progress.add_task("converting", total=sum(task.stop - task.start for task in tasks))
        counts: dict[int, shards.Counts] = {}

        def note(number: int, result: shards.Counts) -> None:
            counts[number] = result
            progress.advance(bar, tasks[number].stop - tasks[number].start)

        if num_workers == 1:
            for number, task in enumerate(tasks):
                note(number, shards.convert_shard(task))
        else:
            with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
                futures = {pool.submit(shards.convert_shard, task): number for number, task in enumerate(tasks)}
                try:
                    for future in as_completed(futures):
                        note(futures[future], future.result())
                except BrokenProcessPool as error:
                    raise ValueError(
                        "a worker was killed, probably because memory ran out; run the same command with fewer --num-workers"
                    ) from error
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        return [counts[number] for number in range(len(tasks))]


def end_with_parent() -> None:
    """End this worker when the build that started it ends, even by a kill; otherwise it would wait for work forever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
