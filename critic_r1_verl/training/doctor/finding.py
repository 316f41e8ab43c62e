# SPDX-License-Identifier: Apache-2.0
"""What a check looks at and what it returns: Case and Finding, and the table in which findings are shown."""

import shlex
from dataclasses import dataclass
from typing import Any, Literal

from critic_r1_verl import foreign

Level = Literal["ok", "warning", "fatal"]


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it ("" where nothing is to be done); a fatal one means that the run would fail or mislead."""

    level: Level
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class Case:
    """The run that is examined: config is verl's whole configuration; deep means that data files are opened as well."""

    recipe: str
    overrides: list[str]
    config: Any
    deep: bool

    def command(self, *more: str) -> str:
        """The command that starts this run on the CPU, with more overrides."""
        words = [f"+recipe={self.recipe}", *more, *self.overrides]
        return "VERL_PLATFORM=cpu python -m verl.trainer.main_ppo " + " ".join(shlex.quote(word) for word in words)


def has_fatal(findings: list[Finding]) -> bool:
    """True if the run must not start."""
    return any(finding.level == "fatal" for finding in findings)


def show(findings: list[Finding], *, stderr: bool = False) -> None:
    """Print a table: the level, what was found and, below it, what to do."""
    from rich.table import Table

    styles = {"ok": "green", "warning": "yellow", "fatal": "bold red"}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(foreign.styled(finding.level, styles[finding.level]), finding.what)
        if finding.remedy:
            table.add_row("", foreign.styled(f"-> {finding.remedy}", "cyan"))
    foreign.console(stderr=stderr).print(table)
