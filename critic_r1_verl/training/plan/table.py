# SPDX-License-Identifier: Apache-2.0
"""A plan as a table for people."""

from collections.abc import Iterator

from critic_r1_verl import foreign
from critic_r1_verl.training.plan import Plan
from critic_r1_verl.training.plan.memory import GIB


def rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """(what, number, remark) of each line; what is "" where a line is a part of the one above."""
    yield "base", f"{_short(plan.parameters)} parameters", plan.base
    if plan.trained_parameters != plan.parameters:
        yield "trained", f"{_short(plan.trained_parameters)} parameters", "LoRA adapters"
    steps = "unknown" if plan.steps is None else f"{plan.steps:,}"
    rows_said = (
        "no data here: build them, or set trainer.total_training_steps" if plan.steps is None else f"of {plan.rollouts_a_step:,} rollouts"
    )
    yield "steps", steps, rows_said
    yield "tokens a step", _short(plan.tokens_a_step), f"micro-batches of {plan.micro_batch_tokens[0]:,.0f} tokens"
    for phase, parts in plan.gpu_bytes.items():
        total = sum(number for number in parts.values() if number > 0)
        yield f"GPU, {phase}", f"{total / GIB:.1f} GiB", f"of {plan.gpu_has_bytes / GIB:.0f} GiB on each of {plan.gpus}"
        yield from (("", f"{number / GIB:.1f}", name) for name, number in parts.items() if number)
    if plan.kv_tokens is not None:
        yield "KV cache of an engine", f"{max(plan.kv_tokens, 0):,} tokens", f"{plan.kv_bytes_a_token:,} bytes a token"
    yield "host memory of a node", f"{sum(plan.host_bytes.values()) / GIB:.0f} GiB", ""
    yield from (("", f"{number / GIB:.1f}", name) for name, number in plan.host_bytes.items() if number)
    yield "TransferQueue", f"{_bytes(plan.queue_bytes_a_step)} a step", "pixels as fp32 with each rollout"
    yield "CPUs", f"{plan.ray_cpus}", "that verl reserves from Ray"
    disk = "unknown" if plan.disk_bytes is None else _bytes(plan.disk_bytes)
    yield "disk", disk, f"a checkpoint is {_bytes(plan.checkpoint_bytes)}"
    if plan.step_seconds is None:
        why = "the KV cache does not fit" if plan.gpu_bytes else "on a CPU it is known after the first step: give its folder by --run"
        yield "a step", "unknown", why
    else:
        mfu = f"MFU of the update {plan.mfu:.1%}" if plan.mfu else ""
        yield "a step", f"{sum(plan.step_seconds.values()):,.0f} s", mfu
        yield from (("", f"{seconds:,.0f}", name) for name, seconds in plan.step_seconds.items())
    if plan.hours:
        least, expected, most = plan.hours
        digits = 0 if expected >= 10 else 1 if expected >= 1 else 2
        yield "hours", f"{expected:,.{digits}f}", f"{least:,.{digits}f} to {most:,.{digits}f}, with validations and checkpoints"


def show(plan: Plan) -> None:
    """Print the table, then where its numbers come from, then what does not fit."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for what, number, remark in rows(plan):
        table.add_row(what, number, foreign.styled(remark, "dim"))
    console = foreign.console()
    console.print(table)
    for source in plan.sources:
        console.print(foreign.styled(f"from: {source}", "dim"))
    if plan.measured:
        said = f"{plan.measured.file}: {plan.measured.steps} steps up to {plan.measured.last_step}, {plan.measured.seconds:,.0f} s each"
        console.print(foreign.styled(f"measured: {said}", "green"))
    for warning in plan.warnings:
        console.print(foreign.styled(f"warning: {warning}", "yellow"))


def _short(number: float) -> str:
    """1.2 billion, 3.4 million or 5,600."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.2f} {name}"
    return f"{number:,.0f}"


def _bytes(number: float) -> str:
    """Decimal, as disks are sold: 1,234 GB, 12.3 GB or 45 MB."""
    if number >= 1e8:
        return f"{number / 1e9:,.{0 if number >= 1e12 else 1}f} GB"
    return f"{number / 1e6:,.0f} MB"
