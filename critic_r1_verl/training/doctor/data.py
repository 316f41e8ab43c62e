# SPDX-License-Identifier: Apache-2.0
"""Checks of the data: the training and validation files, their manifest and, on request, a sample of their rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from critic_r1_verl.data_folder import without_held_out
from critic_r1_verl.files import file_sha256
from critic_r1_verl.training.doctor.finding import Case, Finding
from critic_r1_verl.training.plan import job

SAMPLED_ROWS = 30


def check_data(case: Case) -> Iterator[Finding]:
    """Whether each data file is there and sound, and whether there are enough training rows for one batch."""
    data = case.config.data
    for key in ("train_files", "val_files"):
        if not data[key]:
            yield Finding("fatal", f"data.{key} is not set", f"build the data with `make prep` and set data.{key}")
            continue
        num_rows = 0
        files = [data[key]] if isinstance(data[key], str) else list(data[key])
        for file in files:
            findings, rows_here = _examine_file(f"data.{key}", str(file), case.deep, case.config.critic_r1.max_images)
            num_rows += rows_here
            yield from findings
            longest = _longest_prompt(Path(file))
            if longest > data.max_prompt_length:
                yield Finding(
                    "fatal",
                    f"data.max_prompt_length={data.max_prompt_length}, but the longest prompt of {file} has {longest} tokens: verl "
                    "would lose each longer prompt with all its rollouts",
                    f"add data.max_prompt_length={longest}, or build the data with that limit (--max-prompt-tokens)",
                )
        if key == "train_files" and num_rows:
            yield from _check_choice(case.config, num_rows)


def _check_choice(config: Any, num_rows: int) -> Iterator[Finding]:
    """How many of so many rows the recipe trains on, whether the data have what it asks for, and whether that is enough for one batch."""
    limit, batch = config.data.get("train_max_samples", -1), config.data.train_batch_size
    try:
        chosen = job.num_rows(config) or 0
    except ValueError as error:
        yield Finding("fatal", f"data.train_files: {error}", "correct the recipe or the study, or build other data, as it says")
        return
    used = min(chosen, limit) if limit > 0 else chosen
    if used < batch:
        yield Finding(
            "fatal",
            f"data.train_batch_size={batch}, but there are only {used} training rows: verl drops an incomplete batch",
            f"build more rows, or add data.train_batch_size={used} and a smaller actor_rollout_ref.actor.ppo_mini_batch_size",
        )
    else:
        yield Finding("ok", f"an epoch has {used} rows, of {num_rows} that the training files have (critic_r1.rows)")


def _examine_file(key: str, name: str, deep: bool, max_images: int) -> tuple[list[Finding], int]:
    """The findings of one data file, and its number of rows (0 if they were not read)."""
    from critic_r1_verl import rows

    file, rebuild = Path(name), "build the data again with `make prep`"
    if "://" in name or file.suffix != ".parquet":
        return [Finding("warning", f"{key}: {name} is not looked at, only local parquet files are")], 0
    if not file.is_file():
        return [Finding("fatal", f"{key}: {name} does not exist here ({Path.cwd()})", f"build it with `make prep`, or set {key}")], 0
    findings = _manifest_problems(file)
    if not deep:
        return findings or [Finding("ok", f"{name} is there, as its manifest says")], 0
    try:
        table = rows.read_rows(file)
    except ValueError as error:
        return [*findings, Finding("fatal", str(error), rebuild)], 0
    if not table:
        remedy = f"to train without held-out rows, add {without_held_out('TRAIN.parquet')}" if key == "data.val_files" else rebuild
        return [*findings, Finding("fatal", f"{name} has no rows", remedy)], 0
    last, steps = len(table) - 1, SAMPLED_ROWS + 1
    positions = sorted({last * step // steps for step in range(steps + 1)})
    problems = [f"{name}: row {position}: {text}" for position in positions for text in rows.check_row(table[position], file.parent)]
    findings += [Finding("fatal", problem, rebuild) for problem in problems[:3]]
    most = max(range(len(table)), key=lambda number: len(table[number]["images"]))
    if (images := len(table[most]["images"])) > max_images:
        what = f"{name}: row {most} has {images} images, and vLLM is told to expect {max_images}: it would refuse the row"
        findings.append(Finding("fatal", what, f"add critic_r1.max_images={images}"))
    if len(problems) > 3:
        findings.append(Finding("fatal", f"{name}: {len(problems) - 3} more problems in {len(positions)} sampled rows", rebuild))
    return findings or [Finding("ok", f"{name}: {len(table)} rows; the {len(positions)} that were sampled are sound")], len(table)


def _longest_prompt(file: Path) -> int:
    """Tokens of the longest prompt of a build, as its manifest says; 0 where they were not measured."""
    from critic_r1_verl import data_folder

    try:
        lengths = data_folder.read_manifest(file.parent).get("lengths")
    except ValueError:
        # _manifest_problems reports it.
        return 0
    longest = lengths.get("max") if isinstance(lengths, dict) else None
    return longest if isinstance(longest, int) else 0


def _manifest_problems(file: Path) -> list[Finding]:
    """What is wrong with the build's manifest beside a data file, or with the file according to the manifest."""
    manifest_file, rebuild = file.parent / "manifest.json", "build the data again with `make prep`"
    if not manifest_file.is_file():
        return [
            Finding("warning", f"{manifest_file} is missing: it is written last, so the build was cut short or made elsewhere", rebuild)
        ]
    try:
        stated = json.loads(manifest_file.read_text(encoding="utf-8")).get("files", {}).get(file.name)
    except (ValueError, AttributeError) as error:
        return [Finding("fatal", f"{manifest_file} is not a manifest ({error})", rebuild)]
    if stated in (None, file_sha256(file)):
        return []
    # The name of the run contains a hash of the manifest: under the same name, the run would resume on other data.
    return [Finding("fatal", f"{file} is not the file that {manifest_file.name} describes", rebuild)]
