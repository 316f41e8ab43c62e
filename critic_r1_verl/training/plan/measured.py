# SPDX-License-Identifier: Apache-2.0
"""What a run itself measured, from its step file: it takes the place of the plan's assumptions."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from critic_r1_verl.training.plan.job import Lengths

STEPS = "training.jsonl"
PHASES = ("gen", "old_log_prob", "ref", "update_actor", "update_weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Medians over the steps of a run but its first, which compiles and warms up; the first alone where there is no other.

    seconds: of a whole step without its checkpoint, and of each phase. gpu_bytes: the most that the actor's allocator held on a GPU (0 on
    a CPU); host_bytes: memory in use on the first node, other programs included. Both are the most of all steps.
    """

    file: str
    last_step: int
    steps: int
    seconds: float
    phases: dict[str, float]
    prompt: float
    response: float
    response_most: float
    gpu_bytes: float
    host_bytes: float
    mfu: float
    test_seconds: float | None
    save_seconds: float | None


def find(run: str | None, config: Any) -> Path | None:
    """The step file of a run: in the folder asked for, or in this recipe's own. ValueError if what was asked for is not there."""
    if run is None:
        file = Path(config.trainer.default_local_dir) / STEPS
        return file if file.is_file() else None
    file = Path(run) / STEPS if Path(run).is_dir() else Path(run)
    if not file.is_file():
        raise ValueError(f"--run {run}: no step file here; give the folder in which a run's {STEPS} lies, or that file")
    return file


def read(file: Path) -> Measured | None:
    """The measurements of a step file; None if no step was trained yet. ValueError names a line that is not a step's."""
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            step, data = int(line["step"]), dict(line["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{file}: line {number} is not a step ({{"step": N, "data": {{...}}}}): {error}') from error
        lines.append((step, data))
    trained = [(step, data) for step, data in lines if data.get("timing_s/step") and data.get("response_length/mean")]
    if not trained:
        return None
    settled = [data for _, data in trained[1:]] or [trained[0][1]]
    every = [data for _, data in trained]

    def middle(key: str) -> float:
        return median([data[key] for data in settled if data.get(key) is not None] or [0.0])

    def most(key: str) -> float:
        return max([data[key] for data in every if data.get(key) is not None], default=0.0)

    def optional(key: str) -> float | None:
        found = [data[key] for _, data in lines if data.get(key) is not None]
        return median(found) if found else None

    return Measured(
        file=str(file),
        last_step=trained[-1][0],
        steps=len(trained),
        seconds=median([data["timing_s/step"] - (data.get("timing_s/save_checkpoint") or 0) for data in settled]),
        phases={phase: middle(f"timing_s/{phase}") for phase in PHASES},
        prompt=middle("prompt_length/mean"),
        response=middle("response_length/mean"),
        response_most=most("response_length/max"),
        # verl divides by 1024 ** 3 and calls it gb.
        gpu_bytes=most("actor/perf/max_memory_reserved_gb") * 2**30,
        host_bytes=most("actor/perf/cpu_memory_used_gb") * 2**30,
        mfu=middle("perf/mfu/actor"),
        test_seconds=optional("timing_s/testing"),
        save_seconds=optional("timing_s/save_checkpoint"),
    )


def correct(lengths: Lengths, measured: Measured) -> Lengths:
    """The lengths with what the run measured in place of what was assumed."""
    told = tuple(source for source in lengths.sources if not source.startswith(("a prompt has", "a response has")))
    texts = f"a prompt has {measured.prompt:.0f} and a response {measured.response:.0f} tokens: measured by the run"
    return replace(
        lengths,
        prompt=measured.prompt,
        response=measured.response,
        response_most=measured.response_most,
        sources=(*told, f"{texts} (step {measured.last_step})"),
    )
