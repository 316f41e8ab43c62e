# SPDX-License-Identifier: Apache-2.0
"""Keeps the checkpoint with the best held-out critic accuracy, beside the last ones, which verl rotates (trainer.max_actor_ckpt_to_keep).

verl 0.9.1 has a hook for this, trainer.checkpoint_callback_class, but calls it right after a save, before the validation of that step and
without any metric. So the launcher does it, which reads each step once it is complete. A run that was started by verl.trainer.main_ppo
itself keeps its last checkpoints only.

In the folder of the experiment, best_step_N holds what an export needs, without the state of the optimiser. Its files are hard links to
those of global_step_N, so it costs nothing until verl removes the original. best.json says which it is.
"""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from critic_r1_verl import foreign, rows
from critic_r1_verl.files import write_json
from critic_r1_verl.records import ORDERS

BEST = "best.json"
RESUME_ONLY = ("optim_", "extra_state_")
"""How the files of a checkpoint begin that only a resumed training reads."""

_STYLE, _ = rows.KINDS["pair"]


class Best(NamedTuple):
    """The best checkpoint: its step, its critic accuracy in [0, 1] on num_rows held-out prompts, and its folder in the experiment's."""

    step: int
    accuracy: float
    num_rows: int
    folder: str


def best(experiment: Path) -> Best | None:
    """The best checkpoint of an experiment; None if none was kept. ValueError for a file that cannot be read."""
    file = experiment / BEST
    if not file.is_file():
        return None
    try:
        return Best(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); remove it, and export a global_step_N folder") from error


def best_folder(experiment: Path) -> Path:
    """The folder of the best checkpoint. ValueError if none was kept."""
    found = best(experiment)
    if found is None:
        raise ValueError(
            f"{experiment}: no best checkpoint was kept; `critic-r1 train` keeps it where a step is both saved and validated "
            "(trainer.save_freq, trainer.test_freq)"
        )
    return experiment / found.folder


class BestKeeper:
    """Told each step of a training in turn, keeps the best checkpoint of its experiment. config: verl's whole configuration."""

    def __init__(self, config: Any) -> None:
        self._experiment = Path(config.trainer.default_local_dir)
        files = config.data.val_files
        all_rows = (row for file in ([files] if isinstance(files, str) else files) for row in rows.stream_rows(file))
        as_built = config.critic_r1.val_orders == "built"
        shown = {
            (row["data_source"], row["extra_info"]["pair_id"], order)
            for row in all_rows
            if row["reward_model"]["style"] == _STYLE
            for order in ((row["extra_info"]["order"],) if as_built else ORDERS)
        }
        self._num_rows = Counter(source for source, *_ in shown)

    def __call__(self, step: dict[str, Any]) -> None:
        """A line of the step file. If that step was validated and saved and is better than all before it, its checkpoint is kept."""
        number, accuracy = int(step["step"]), self._accuracy(step["data"])
        actor = self._experiment / f"global_step_{number}" / "actor"
        known = best(self._experiment)
        if known and number <= known.step and "critic/score/mean" in step["data"]:
            # The training was started anew over its checkpoints, and may have overwritten the files that were linked.
            (self._experiment / BEST).unlink()
            shutil.rmtree(self._experiment / known.folder)
            known = None
        if accuracy is None or not actor.is_dir() or (known and known.accuracy >= accuracy):
            return
        folder = f"best_step_{number}"
        _link(actor, self._experiment / folder / "actor")
        write_json(self._experiment / BEST, Best(number, accuracy, self._num_rows.total(), folder)._asdict())
        for other in self._experiment.glob("best_step_*"):
            if other.name != folder:
                shutil.rmtree(other)

    def _accuracy(self, data: dict[str, Any]) -> float | None:
        """The share of right verdicts; verl logs one for each source. None where a source with verdicts was not validated."""
        by_source = {found[1]: value for key, value in data.items() if (found := re.fullmatch(r"val-core/(.*)/acc/mean@\d+", key))}
        if not self._num_rows or not self._num_rows.keys() <= by_source.keys():
            return None
        return sum(count * by_source[source] for source, count in self._num_rows.items()) / self._num_rows.total()


def _link(actor: Path, to: Path) -> None:
    """Hard links to what an export needs of a checkpoint; copies, said so, on a file system without hard links."""
    shutil.rmtree(to, ignore_errors=True)
    copied = []

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            copied.append(shutil.copy2(source, target))

    left_out = shutil.ignore_patterns(*(f"{start}*" for start in RESUME_ONLY))
    shutil.copytree(actor, to, ignore=left_out, copy_function=link)
    if copied:
        foreign.say(f"{to}: copied, since this file system has no hard links", stderr=True)
