# SPDX-License-Identifier: Apache-2.0
"""Stages of a folder: what counts as the same code and settings. test_demo.py and test_study.py resume and refuse."""

from pathlib import Path

import pytest

from critic_r1_verl import stages
from critic_r1_verl.files import locked


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("judge.py", True),
        ("prompts/critic.txt", True),
        ("scoring/report/a.py", True),
        ("report/page.py", False),
        ("study/table.py", False),
        ("__pycache__/judge.pyc", False),
    ],
)
def test_code_is_what_determines_results(name: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "PACKAGE", tmp_path / "package")
    (tmp_path / "package" / name).parent.mkdir(parents=True)
    (tmp_path / "more/report").mkdir(parents=True)
    before = stages.code(tmp_path / "more")
    (tmp_path / "package" / name).write_text("x")
    after = stages.code(tmp_path / "more")
    assert (before != after) == counts
    (tmp_path / "more/report/a.py").write_text("x")
    assert stages.code(tmp_path / "more") not in (before, after)


def test_the_first_differences_are_named(tmp_path: Path) -> None:
    stages.run(tmp_path, {"a": 1, "b": {"c": [1], "d": {}}, "e": 5}, {})
    with pytest.raises(ValueError, match=r"code: a was 1, now 2, b\.c was \[1\], now null, b\.d was {}, now null, and 2 more; remove"):
        stages.run(tmp_path, {"a": 2, "f": 6}, {})


def test_one_process_works_in_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ValueError, match="another process writes into this folder"):
        stages.run(tmp_path, {}, {})
