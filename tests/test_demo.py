# SPDX-License-Identifier: Apache-2.0
"""The demo's bookkeeping: what is done is not done again, and never continued by other code or settings. Its stages are faked."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("demo", ROOT / "examples/digits/demo.py")
assert spec
assert spec.loader
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)

STAGES = ("draw", "build", "teach", "measure", "train", "export", "report")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that ran, in order."""
    ran: list[str] = []
    for name in STAGES:

        def stage(self: object, *arguments: object, name: str = name) -> str:
            ran.append(" ".join([name, *map(str, arguments[:1])]))
            return f"{name} did this"

        monkeypatch.setattr(demo.Demo, name, stage)
    return ran


def test_a_finished_demo_only_reports_again(tmp_path: Path, calls: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    demo.Demo(tmp_path, False, None, None).run()
    assert calls == ["draw", "build", "teach", "measure base", "train", "export", "measure trained", "report"]
    calls.clear()
    capsys.readouterr()
    demo.Demo(tmp_path, False, None, None).run()
    assert calls == ["report"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert all(line.endswith("did this (done before)") for line in lines[:-1])


def test_an_interrupted_demo_goes_on_where_it_was(tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo.Demo, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo.Demo(tmp_path, False, None, None).run()
    half_done = tmp_path / "eval/trained/test/answers.jsonl"
    half_done.parent.mkdir(parents=True)
    half_done.write_text("{}\n")
    calls.clear()
    demo.Demo(tmp_path, False, None, None).run()
    assert calls == ["train", "export", "measure trained", "report"]
    assert half_done.is_file()


@pytest.mark.parametrize(("random_labels", "base_from"), [(True, None), (False, "elsewhere")])
def test_other_settings_do_not_go_on(tmp_path: Path, calls: list[str], random_labels: bool, base_from: str | None) -> None:
    demo.Demo(tmp_path, False, None, None).run()
    with pytest.raises(ValueError, match=r"made with other settings or code: (random_labels|base_from) was"):
        demo.Demo(tmp_path, random_labels, Path(base_from) if base_from else None, None).run()


def test_other_code_does_not_go_on(tmp_path: Path, calls: list[str]) -> None:
    demo.Demo(tmp_path, False, None, None).run()
    noted = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(noted | {"code": "of yesterday"}))
    with pytest.raises(ValueError, match='made with other settings or code: code was "of yesterday"'):
        demo.Demo(tmp_path, False, None, None).run()


def test_a_demo_may_end_early_and_go_on_later(tmp_path: Path, calls: list[str]) -> None:
    demo.Demo(tmp_path).run(until="teach")
    assert calls == ["draw", "build", "teach"]
    demo.Demo(tmp_path).run()
    assert calls == ["draw", "build", "teach", "measure base", "train", "export", "measure trained", "report"]
