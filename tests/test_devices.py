# SPDX-License-Identifier: Apache-2.0
"""Which GPUs the engines of a pool are given."""

import pytest

from critic_r1_verl import devices


@pytest.mark.parametrize(
    ("platform", "visible", "found"),
    [
        ("", None, ["0", "1", "2", "3"]),
        ("", "", ["0", "1", "2", "3"]),
        ("", "5,7", ["5", "7"]),
        ("", "GPU-a,GPU-b", ["GPU-a", "GPU-b"]),
        ("cpu", None, []),
        ("cpu", "5,7", []),
    ],
)
def test_visible_devices(monkeypatch: pytest.MonkeyPatch, platform: str, visible: str | None, found: list[str]) -> None:
    monkeypatch.setenv("VERL_PLATFORM", platform)
    monkeypatch.setattr(devices, "gpu_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.visible_devices(2) == found


@pytest.mark.parametrize(("visible", "available"), [("5", 1), ("-1", 0), ("5,-1,6", 1)])
def test_too_few_devices(monkeypatch: pytest.MonkeyPatch, visible: str, available: int) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ValueError, match=f"2 GPUs are requested, but {available} are available: lower --data-parallel-size"):
        devices.visible_devices(2)


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    for name, text in (("memory.max", "1000\n"), ("memory.current", "900\n"), ("memory.stat", "anon 5\ninactive_file 300\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    assert (devices.available_memory(), devices.memory()) == (400, 1000)
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.memory() > devices.available_memory() > 400


def test_a_containers_cpus_count(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert devices.cpus() == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert devices.cpus() >= 1
