# SPDX-License-Identifier: Apache-2.0
"""Examines a training run before it starts, and reports what would otherwise fail late or go wrong without an error message.

Each module here has the checks of one topic: recipe.py, machine.py, cluster.py (a Ray cluster that is there already), space.py (memory,
disk and CPUs), data.py, base.py (the base model), judge.py (a critic that rewards
rollouts), first_rows.py (what the model will see) and run.py (the run's name, and the checkpoint
that it would resume). The configuration is composed from the installed verl's own YAML with the same overrides as the run. verl and torch
are not imported, but for the memory of a run on GPUs, and in a process of its own for the first rows.
"""

import re
import shlex

from critic_r1_verl.training.compose import compose
from critic_r1_verl.training.doctor.base import check_base
from critic_r1_verl.training.doctor.cluster import check_cluster
from critic_r1_verl.training.doctor.data import check_data
from critic_r1_verl.training.doctor.finding import Case, Finding, Level, has_fatal, show
from critic_r1_verl.training.doctor.first_rows import check_first_rows
from critic_r1_verl.training.doctor.judge import check_judge
from critic_r1_verl.training.doctor.machine import check_devices, check_flash_attn, check_leftovers, check_ports, check_versions
from critic_r1_verl.training.doctor.recipe import check_batches, check_keys, check_recipe, check_rows
from critic_r1_verl.training.doctor.run import CLAIM, TRACKER, check_name, claim
from critic_r1_verl.training.doctor.space import check_cpus, check_memory, check_space

__all__ = ["CHECKS", "CLAIM", "TRACKER", "Case", "Finding", "Level", "claim", "examine", "has_fatal", "show"]

CHECKS = (
    check_recipe,
    check_keys,
    check_judge,
    check_rows,
    check_versions,
    check_devices,
    check_cluster,
    check_flash_attn,
    check_data,
    check_base,
    check_name,
    check_batches,
    check_cpus,
    check_memory,
    check_space,
    check_ports,
    check_leftovers,
)


def examine(recipe: str, overrides: list[str], *, deep: bool = True, first_rows: bool = False) -> list[Finding]:
    """What `python -m verl.trainer.main_ppo +recipe=RECIPE OVERRIDES...` would run into if it started here and now, in the order of CHECKS.

    deep: also open the data files and check a sample of their rows. first_rows: if nothing else is fatal, also load the first rows as verl
    does, in some ten seconds. Nothing is changed or written.
    """
    try:
        config = compose(recipe, overrides)
    except ValueError as error:
        remedy = _quoting(overrides) or (
            "check the recipe's name and the overrides; `python -m verl.trainer.main_ppo +recipe=critic_r1 --cfg job` prints every key"
        )
        return [Finding("fatal", str(error), remedy), *check_versions(Case(recipe, overrides, None, deep))]
    # The name ends in a digest over the whole configuration, and the folders hold the name: it is computed once, not at each use.
    config.trainer.experiment_name = str(config.trainer.experiment_name)
    case = Case(recipe, overrides, config, deep)
    applied = list(check_recipe(case))
    if has_fatal(applied):
        # Without the recipe, the other checks would examine verl's defaults.
        return [*applied, *check_versions(case)]
    findings = [*applied, *(finding for check in CHECKS[1:] for finding in check(case))]
    return [*findings, *(check_first_rows(case) if first_rows and not has_fatal(findings) else ())]


def _quoting(overrides: list[str]) -> str:
    """How to write the overrides with characters that mean something to Hydra; "" if there is none."""
    words = []
    for word in overrides:
        key, _, value = word.partition("=")
        # Lists, dictionaries, interpolations and texts in quotes are Hydra's own.
        if re.search(r"[,=:\s()%]", value) and value[0] not in "[{'\"$" and not key.startswith("+recipe"):
            escaped = value.replace('"', '\\"')
            words.append(shlex.quote(f'{key}="{escaped}"'))
    return f"quote a value with commas, equals signs or spaces once for Hydra and once for the shell: {' '.join(words)}" if words else ""
