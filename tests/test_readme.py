# SPDX-License-Identifier: Apache-2.0
"""Every command of the documentation: make targets are planned by make, recipes composed, flags understood; what is long is not run."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

import data_prep.__main__
from critic_r1_verl import cli
from critic_r1_verl.training.compose import compose

ROOT = Path(__file__).parents[1]
FILES = ("README.md", "recipe/README.md", "examples/digits/README.md", "CONTRIBUTING.md")


def commands() -> list[tuple[str, str]]:
    """(file, command) of every line of a code block and every span of code that starts one of our commands; "a && b" gives two."""
    found: dict[tuple[str, str], None] = {}
    for name in FILES:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            for code in [re.sub(r"\s#.*", "", line), *re.findall(r"`([^`]+)`", line)]:
                if re.match(r"\s*(VERL_PLATFORM=cpu )?(make|python -m|critic-r1) \S", code):
                    found |= {(name, part.strip()): None for part in code.split("&&")}
    return list(found)


@pytest.mark.parametrize(("file", "command"), commands(), ids=lambda value: str(value).replace("/", "_"))
def test_it_is_a_command(file: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in shlex.split(command) if not word.startswith("VERL_PLATFORM=")]
    monkeypatch.setenv("VERL_PLATFORM", "cpu" if command.startswith("VERL_PLATFORM=cpu") else "")
    if words[0] == "make":
        planned = subprocess.run(["make", "-n", "GPU=0", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert planned.returncode == 0, planned.stderr
    elif words[:3] == ["python", "-m", "verl.trainer.main_ppo"]:
        assert words[3].startswith("+recipe=")
        overrides = [word for word in words[4:] if word not in ("--cfg", "job")]
        config = compose(words[3].removeprefix("+recipe="), overrides)
        assert config.trainer.experiment_name.startswith(config.critic_r1.name)
    elif words[0] == "critic-r1":
        assert callable(cli.parse(words[1:]).run)
    else:
        assert words[:3] == ["python", "-m", "data_prep"]
        assert callable(data_prep.__main__.parser().parse_args(words[3:]).run)


def test_the_documentation_has_commands() -> None:
    assert len(commands()) >= 12
