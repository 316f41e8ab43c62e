# SPDX-License-Identifier: Apache-2.0
"""Real process trees: a driver, an orphan that has renamed itself as Ray's workers do, and the shared memory it holds."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from critic_r1_verl import supervise
from critic_r1_verl.supervise import run as run_module
from critic_r1_verl.supervise import storage

ROOT = Path(__file__).parents[1]

# A daemon of a driver: forked twice, a session of its own, deaf to SIGTERM, its environment overwritten by its title; its child shares it.
WORKER = """
    import json, mmap, os, pathlib, signal, sys, time
    from multiprocessing import shared_memory
    import setproctitle
    folder, title, name = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A busy machine delays the supervisor, and once the environment is overwritten, nothing shows whose daemon this is.
    state = pathlib.Path(f"/dev/shm/critic_r1_run_{os.geteuid()}_{os.environ['CRITIC_R1_RUN']}.json")
    while f" {os.getpid()}," not in state.read_text(): time.sleep(0.02)
    setproctitle.setproctitle(title)
    held = shared_memory.SharedMemory(name="psm_" + name, create=True, size=4096)
    file = open("/dev/shm/torch_" + name, "w+b")
    file.truncate(4096)
    mapped = mmap.mmap(file.fileno(), 4096)
    file.close()
    helper = os.fork()
    if helper:
        (folder / "worker.part").write_text(json.dumps([os.getpid(), helper]))
        os.replace(folder / "worker.part", folder / "worker.json")
    time.sleep(60)
"""
DRIVER = """
    import os, pathlib, signal, subprocess, sys, time
    from critic_r1_verl import supervise
    # A shell that starts the tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
    if supervise.RUN not in os.environ:
        supervise.attach(training=mode != "engine")
    supervise.attach()
    subprocess.run([sys.executable, "worker.py", *sys.argv[1:2], *sys.argv[3:]], check=True, cwd=folder)
    while mode != "end" or not (folder / "end").exists():
        time.sleep(0.05)
"""
# A launcher: it starts the driver and the supervisor of it.
PARENT = """
    import os, pathlib, subprocess, sys
    from critic_r1_verl import supervise
    run_id = supervise.new_id()
    driver = subprocess.Popen([sys.executable, *sys.argv[1:]], env={**os.environ, supervise.RUN: run_id})
    folder = supervise.new_folder(run_id)
    (pathlib.Path(sys.argv[2]) / "folder").write_text(str(folder))
    supervise.watch(run_id, driver.pid, training=True, tie_to=os.getpid(), folder=folder)
    driver.wait()
"""


class Tree:
    """A driver and what it started. pids: the worker and its forked helper."""

    def __init__(self, folder: Path, mode: str, title: str = "ray::IDLE", parent: bool = False, before: tuple = ()) -> None:
        for name, text in (("worker", WORKER), ("driver", DRIVER), ("parent", PARENT)):
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        self.folder, self.pids, self.run, self.name = folder, [], "", f"{os.getpid()}_{folder.name}"
        command = [sys.executable, *before, *(["parent.py"] if parent else []), "driver.py", str(folder), mode, title, self.name]
        environment = {"PYTHONPATH": str(ROOT), supervise.GRACE_SECONDS: "0.3", supervise.HANG_SECONDS: "0.5"}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("CRITIC_R1_")}
        self.errors = folder / "stderr"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, cwd=folder, env=inherited | environment, stderr=errors)

    def wait_until_watched(self) -> None:
        wait_for((self.folder / "worker.json").exists)
        self.pids = json.loads((self.folder / "worker.json").read_text())
        # The supervisor looks twice a second.
        wait_for(lambda: {pid for pid, _ in self.state().get("members", ())} >= set(self.pids))
        wait_for(lambda: set(self.segments()) <= set(self.state()["segments"]))
        self.supervisor, self.run = self.state()["supervisor"][0], self.state()["run"]

    def state(self) -> dict:
        for path in supervise.SHM.glob(f"critic_r1_run_{os.geteuid()}_*.json"):
            try:
                state = json.loads(path.read_text())
            except FileNotFoundError:
                continue
            run = path.stem.rpartition("_")[2]
            if run == self.run or state["driver"][0] in {self.process.pid, *children(self.process.pid)}:
                return state | {"run": run}
        return {}

    def segments(self) -> list[str]:
        return [path.name for path in supervise.SHM.glob(f"*_{self.name}")]

    def alive(self) -> list[int]:
        return [pid for pid in (*self.pids, self.supervisor) if is_alive(pid)]

    def check_gone(self) -> None:
        wait_for(lambda: not self.alive())
        assert not self.segments()
        assert not self.state()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if not supervise.wait(self.run or "none", 10):
            supervise.reap(self.run)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and run_module.is_alive(psutil.Process(pid))


def children(pid: int) -> list[int]:
    return [process.pid for process in psutil.Process(pid).children()] if psutil.pid_exists(pid) else []


def wait_for(condition, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


@pytest.fixture
def tree(tmp_path):
    trees = []

    def start(*arguments, **options) -> Tree:
        trees.append(Tree(tmp_path, *arguments, **options))
        trees[-1].wait_until_watched()
        return trees[-1]

    yield start
    for started in trees:
        started.kill()


@pytest.mark.parametrize("end", ["exit", signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_driver_ends(tree, tmp_path, end):
    bystander = subprocess.Popen(["sleep", "60"], env={**os.environ, supervise.RUN: "another"})
    try:
        started = tree("end" if end == "exit" else "sleep")
        if end == "exit":
            (tmp_path / "end").touch()
        else:
            started.process.send_signal(end)
        assert started.process.wait(10) == (0 if end == "exit" else -end)
        started.check_gone()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_the_run_ends_with_the_process_it_is_tied_to(tree, tmp_path):
    started = tree("sleep", parent=True)
    driver = started.state()["driver"][0]
    assert driver != started.process.pid
    started.process.kill()
    started.check_gone()
    assert not is_alive(driver)
    assert not Path((tmp_path / "folder").read_text()).exists()
    assert f"process {started.process.pid}, which started this run, has ended" in started.errors.read_text()


def test_a_lost_worker_ends_the_run_with_an_error(tree):
    started = tree("sleep", title="ray::WorkerDict.update_actor")
    worker, helper = started.pids
    # The helper has the worker's title, as a data loader's worker has, and is none.
    os.kill(helper, signal.SIGKILL)
    time.sleep(1.4)
    assert started.process.poll() is None
    os.kill(worker, signal.SIGKILL)
    assert started.process.wait(10) == -signal.SIGKILL
    started.check_gone()
    assert f"ray::WorkerDict (process {worker}) died 0.5 s ago" in started.errors.read_text()


@pytest.mark.parametrize(("mode", "title"), [("sleep", "ray::IDLE"), ("engine", "VLLM::EngineCore")])
def test_idle_workers_may_go_and_so_may_an_engine_that_is_not_part_of_a_training(tree, mode, title):
    started = tree(mode, title=title)
    for pid in started.pids:
        os.kill(pid, signal.SIGKILL)
    time.sleep(1.4)
    assert started.process.poll() is None


def test_leftovers_of_a_killed_supervisor_are_found_and_reaped(tree, tmp_path):
    started = tree("sleep", title="VLLM::EngineCore", parent=True)
    folder = Path((tmp_path / "folder").read_text())
    run_id, driver = started.state()["run"], started.state()["driver"][0]
    with pytest.raises(ValueError, match=f"{run_id} is alive"):
        supervise.reap(run_id)
    assert run_id not in [leftover.run for leftover in supervise.leftovers()]
    for pid in (started.supervisor, started.process.pid, driver):
        os.kill(pid, signal.SIGKILL)
    started.process.wait()
    wait_for(lambda: run_id in [leftover.run for leftover in supervise.leftovers()])
    (found,) = [leftover for leftover in supervise.leftovers() if leftover.run == run_id]
    assert set(found.processes) >= {(pid, "VLLM::EngineCore") for pid in started.pids}
    assert sorted(found.segments) == sorted(started.segments()) and len(found.segments) == 2
    assert found.folder == str(folder)
    assert not supervise.wait(run_id, 0.1)
    supervise.reap(run_id)
    started.check_gone()
    assert not folder.exists()
    assert supervise.wait(run_id, 0.0)
    supervise.reap(run_id)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("ray::TaskRunnerV1.run", "ray::TaskRunnerV1"),
        ("ray::WorkerDict", "ray::WorkerDict"),
        ("ray::AgentLoopWorkerTQ.generate_sequences", "ray::AgentLoopWorkerTQ"),
        ("ray::vLLMHttpServer.generate", "ray::vLLMHttpServer"),
        ("VLLM::EngineCore_DP0", "VLLM::EngineCore_DP0"),
        ("VLLM::Worker_TP1", "VLLM::Worker_TP1"),
        ("/x/ray/core/src/ray/raylet/raylet", "raylet"),
        ("/x/gcs/gcs_server", "gcs_server"),
        ("ray::IDLE", None),
        ("ray::IDLE_SpillWorker", None),
        ("ray::DashboardAgent", None),
        ("ray::get_master_addr_port", None),
        ("/bin/notraylet", None),
    ],
)
def test_essential_titles(title, name):
    match = run_module.ESSENTIAL.search(title)
    assert (match[0] if match else None) == name


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({supervise.HANG_SECONDS: "soon"}, "CRITIC_R1_HANG_SECONDS=soon: not a number of seconds"),
        ({supervise.GRACE_SECONDS: "-1"}, "CRITIC_R1_GRACE_SECONDS=-1: not a number of seconds"),
    ],
)
def test_bad_settings_are_refused(monkeypatch, environment, message):
    monkeypatch.delenv(supervise.RUN, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        supervise.attach(training=True)
    assert supervise.RUN not in os.environ


def test_a_state_file_of_another_version_is_left_alone():
    path = run_module.state_path("another_version")
    path.write_text('{"driver": [1, 0.0], "reaper": null}')
    try:
        assert "another_version" not in [leftover.run for leftover in supervise.leftovers()]
        supervise.reap("another_version")
        assert path.exists()
    finally:
        path.unlink()


def test_only_own_folders_are_deleted(tmp_path):
    folder = supervise.new_folder("one")
    with pytest.raises(ValueError, match="not the temporary folder of run two"):
        supervise.remove_folder(folder, "two")
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(ValueError, match="not the temporary folder"):
        supervise.remove_folder(link, "one")
    with pytest.raises(ValueError, match="not the temporary folder"):
        supervise.remove_folder(tmp_path, "one")
    supervise.remove_folder(folder, "one")
    supervise.remove_folder(folder, "one")
    assert not folder.exists()


def test_data_that_is_only_read_is_no_segment():
    path = supervise.SHM / f"critic_test_{os.getpid()}"
    path.write_bytes(b"x")
    try:
        inode = path.stat().st_ino
        with path.open("rb"):
            assert inode not in storage.held_inodes(psutil.Process())
        with path.open("r+b"):
            assert inode in storage.held_inodes(psutil.Process())
    finally:
        path.unlink()


CLUSTER = """
    import os, pathlib, subprocess, sys, time
    folder = pathlib.Path(sys.argv[1])
    node = "import setproctitle, subprocess, sys, time; setproctitle.setproctitle('raylet'); time.sleep(1.5); " \\
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    (folder / "raylet").write_text(str(subprocess.Popen([sys.executable, "-c", node]).pid))
    time.sleep(0.3)
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.mark.parametrize("lost", [False, True])
def test_a_cluster_that_the_driver_did_not_start_is_not_touched_and_not_missed(tree, tmp_path, lost):
    """`ray start --head && exec python -m ...`: then the cluster is even a child of the driver, in its session."""
    (tmp_path / "cluster.py").write_text(textwrap.dedent(CLUSTER))
    started = tree("sleep", before=("cluster.py", str(tmp_path)))
    raylet = psutil.Process(int((tmp_path / "raylet").read_text()))
    try:
        assert raylet.ppid() == started.process.pid
        wait_for(raylet.children)
        (worker,) = raylet.children()
        # Two scans, so that the worker would have been taken for a member.
        time.sleep(1.2)
        assert not {raylet.pid, worker.pid} & {pid for pid, _ in started.state()["members"]}
        if lost:
            raylet.kill()
            time.sleep(1.4)
            assert started.process.poll() is None
        started.process.kill()
        started.process.wait()
        started.check_gone()
        assert is_alive(worker.pid) and is_alive(raylet.pid) is not lost
    finally:
        for process in (worker, raylet):
            if process.is_running():
                process.kill()
