# SPDX-License-Identifier: Apache-2.0
"""The doctor finds nothing wrong with a sound run of the small base; each thing that a test then breaks gives one finding and a remedy."""

import hashlib
import importlib.util
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from critic_r1_verl import devices, hub, prompts, rows, supervise
from critic_r1_verl.critic_reward import judging
from critic_r1_verl.files import write_json
from critic_r1_verl.records import Image, PairRecord
from critic_r1_verl.training import doctor, shape
from critic_r1_verl.training.compose import compose
from critic_r1_verl.training.doctor import base, cluster, first_rows, judge, machine, recipe, space
from critic_r1_verl.training.plan import sizes

CPU = ("+recipe/base=tiny", "+recipe/hardware=cpu")
LORA = ("actor_rollout_ref.model.lora_rank=64", "actor_rollout_ref.actor.fsdp_config.model_dtype=bf16")
SERVED = ("reward.reward_model.enable=true", "reward.reward_model.model_path=runs/trained")
GIB = 2**30


def make_data(folder: Path, name: str, count: int = 40) -> Path:
    from PIL import Image as Picture

    (folder / "images").mkdir(parents=True, exist_ok=True)
    Picture.new("RGB", (56, 56), "red").save(folder / "images" / "red.png")
    image = Image(path="images/red.png", sha256="0" * 64)
    template = prompts.load("critic_short")
    pairs = [
        PairRecord(images=(image,), question=f"{name} {i}?", response_1="red", response_2="blue", preferred="1", source="test")
        for i in range(count)
    ]
    table = [rows.verdict_row(pair, "12", template=template, split=name, index=i) for i, pair in enumerate(pairs)]
    rows.write_parquet(folder / f"{name}.parquet", table)
    return folder / f"{name}.parquet"


def write_manifest(folder: Path) -> None:
    write_json(
        folder / "manifest.json", {"files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.parquet")}}
    )


def make_base(folder: Path, processor: str | None = "Qwen2_5_VLProcessor") -> Path:
    folder.mkdir(parents=True)
    template = {
        "chat_template": "{% for message in messages %}{{ message.role }}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
    }
    for name, content in (("config.json", {"model_type": "qwen2_5_vl"}), ("tokenizer.json", {}), ("tokenizer_config.json", template)):
        (folder / name).write_text(json.dumps(content))
    if processor:
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": processor}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


class World:
    """A sound run of the small base on the CPU in a folder of its own; tests break one thing each."""

    def __init__(self, root: Path, sound_data: Path, quick_compose) -> None:
        self.quick_compose = quick_compose
        self.root, self.data, self.base, self.checkpoints = root, root / "data", root / "base", root / "checkpoints"
        shutil.copytree(sound_data, self.data)
        self.train, self.val = self.data / "train.parquet", self.data / "val.parquet"
        make_base(self.base)

    def overrides(self, *more: str, hardware: tuple[str, ...] = CPU) -> list[str]:
        return [
            *hardware,
            f"actor_rollout_ref.model.path={self.base}",
            f"data.train_files={self.train}",
            f"data.val_files={self.val}",
            f"trainer.default_local_dir={self.checkpoints}/${{trainer.experiment_name}}",
            *more,
        ]

    def examine(self, *more: str, hardware: tuple[str, ...] = CPU) -> list[doctor.Finding]:
        return doctor.examine("critic_r1", self.overrides(*more, hardware=hardware))

    def compose(self, *more: str):
        return self.quick_compose("critic_r1", self.overrides(*more))

    def case(self, *overrides: str) -> doctor.Case:
        """The recipe with these overrides alone."""
        return doctor.Case("critic_r1", [*overrides], self.quick_compose("critic_r1", [*overrides]), False)

    def save_checkpoint(self, config, step: int = 10) -> Path:
        folder = Path(config.trainer.default_local_dir)
        (folder / f"global_step_{step}").mkdir(parents=True)
        (folder / doctor.TRACKER).write_text(str(step))
        return folder


@pytest.fixture
def world(real_world, monkeypatch, quick_compose):
    """The same without Hydra, and with few rows looked at."""
    monkeypatch.setattr(doctor, "compose", quick_compose)
    monkeypatch.setattr("critic_r1_verl.training.doctor.data.SAMPLED_ROWS", 2)
    return real_world


@pytest.fixture(scope="session")
def sound_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "data"
    for name in ("train", "val"):
        make_data(folder, name)
    write_manifest(folder)
    return folder


@pytest.fixture
def real_world(tmp_path, sound_data, monkeypatch, quick_compose):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(supervise, "leftovers", list)
    monkeypatch.setattr(devices, "gpu_count", lambda: 0)
    monkeypatch.setattr(devices, "available_memory", lambda: 8 * GIB)
    monkeypatch.setattr(space, "gpu_memory", lambda: 0)
    # The machine and the environment that run the tests are not what is tested here.
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 500 * GIB}))
    monkeypatch.setattr(machine.cpu, "version_problems", list)
    return World(tmp_path, sound_data, quick_compose)


def bad(findings: list[doctor.Finding]) -> list[doctor.Finding]:
    return [finding for finding in findings if finding.level != "ok"]


def only(findings: list[doctor.Finding], level: str, what: str, remedy: str = "") -> None:
    """One finding is not ok, and it is this one."""
    found = bad(findings)
    assert len(found) == 1, found
    assert found[0].level == level
    assert what in found[0].what
    assert remedy in found[0].remedy
    assert found[0].remedy


def test_a_sound_run_has_nothing_to_say(real_world):
    findings = real_world.examine()
    assert bad(findings) == []
    said = "\n".join(finding.what for finding in findings)
    for part in (
        "critic_r1 is found",
        "pinned",
        "CPU",
        "40 rows; the 32",
        "Qwen2_5_VLProcessor",
        "starts anew as critic_r1-base-",
        "GiB of memory",
    ):
        assert part in said


def test_nothing_heavy_is_imported():
    code = """
import sys
from critic_r1_verl.training import doctor, shape
doctor.examine("critic_r1", ["+recipe/base=tiny", "+recipe/hardware=cpu"], deep=False)
print([name for name in ("torch", "verl", "vllm", "transformers", "ray", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_processors_are_those_of_the_installed_verl():
    root = importlib.util.find_spec("verl").submodule_search_locations[0]
    source = (Path(root) / "utils" / "tokenizer" / "tokenizer.py").read_text()
    assert set(re.findall(r'case "(\w+)":', source)) == {*base.PROCESSORS, base.MLLAMA}


# Recipe


def test_an_unknown_recipe_lists_those_there_are(real_world):
    findings = doctor.examine("nope", real_world.overrides())
    only(findings, "fatal", "critic_r1_plus", "--cfg job")
    assert "\n" not in findings[0].what


@pytest.mark.parametrize(
    "override, said", [("nope=1", "Could not override 'nope'"), ("data.seed='", "data.seed"), ("trainer.device=${nope}", "nope' not found")]
)
def test_a_bad_override_is_one_line(real_world, override, said):
    findings = real_world.examine(override)
    only(findings, "fatal", said, "--cfg job")
    assert "\n" not in findings[0].what


def test_a_path_that_needs_quotes(real_world):
    """The remedy is what a shell takes, and composes."""
    (finding,) = bad(doctor.examine("critic_r1", ["data.train_files=/a b/c,d=1.parquet"]))
    words = shlex.split(finding.remedy.partition("shell: ")[2])
    assert compose("critic_r1", words).data.train_files == "/a b/c,d=1.parquet"


def test_a_recipe_that_hydra_takes_for_a_plain_key(real_world, monkeypatch):
    from hydra_plugins.critic_r1_searchpath import CriticR1SearchPath

    monkeypatch.setattr(CriticR1SearchPath, "manipulate_search_path", lambda self, search_path: None)
    only(doctor.examine("critic_r1", []), "fatal", "plain key", "make setup")


def test_a_recipe_without_its_package_line(real_world):
    (real_world.root / "recipe").mkdir()
    (real_world.root / "recipe" / "mine.yaml").write_text("algorithm:\n  adv_estimator: grpo\n")
    only(doctor.examine("mine", [f"hydra.searchpath=[file://{real_world.root}]"]), "fatal", "not applied", "# @package _global_")


def test_a_recipe_that_leaves_the_method_out(world):
    case = world.case()
    del case.config.critic_r1
    only(list(recipe.check_recipe(case)), "fatal", "does not include critic_r1", "defaults list")


@pytest.mark.parametrize(
    "overrides, level, what, remedy",
    [
        (["algorithm.adv_estimator=gae"], "warning", "gae", "leave it out"),
        (["reward.custom_reward_function.path=null"], "fatal", "default reward", "reward.custom_reward_function.path"),
        (["custom_reward_function.path=/x.py"], "fatal", "top level is ignored", "reward.custom_reward_function"),
        (["reward_model.model.path=/x"], "fatal", "reward_model.model.path", "reward.reward_model"),
        (["actor_rollout_ref.actor.freeze_vision_tower=true"], "fatal", "freeze_vision_tower", "recipe/method=lora"),
        (
            ["actor_rollout_ref.actor.fsdp_config.dtype=float16"],
            "warning",
            "which computes in bfloat16",
            "mixed_precision={param_dtype:float16}",
        ),
        (["actor_rollout_ref.nccl_timeout=3600"], "warning", "nccl_timeout is read nowhere", "leave it out"),
        (
            [
                "actor_rollout_ref.model.lora_rank=64",
                "actor_rollout_ref.actor.fsdp_config.model_dtype=bf16",
                "actor_rollout_ref.actor.optim.lr=1e-6",
            ],
            "warning",
            "lr=1e-06: the adapter is held in bfloat16",
            "recipe/method=lora",
        ),
        (["data.return_multi_modal_inputs=false"], "warning", "return_multi_modal_inputs", "leave it out"),
        (["data.image_key=image"], "fatal", "no picture would reach the model", "leave data.image_key out"),
        (["data.prompt_key=question"], "fatal", "fail at the first row", "leave data.prompt_key out"),
        (
            ["algorithm.filter_groups.enable=true", "trainer.v1.sampler.custom_sampler.path=pkg://mine"],
            "fatal",
            "has no effect beside trainer.v1.sampler.custom_sampler.path=pkg://mine",
            "leave one of them out",
        ),
        (["+recipe/study=j1", "data.shuffle=true"], "fatal", "sequence of the rows is a part of this recipe", "data.shuffle=false"),
        (["critic_r1.paid=strict"], "fatal", "needs both orders of each pair in one step", "critic_r1.rows.orders=together"),
        (["critic_r1.paid=score"], "fatal", "critic_r1.paid=score: give one of acc", "correct the recipe"),
        (
            ["+recipe/study=j1", "data.train_batch_size=5", "actor_rollout_ref.actor.ppo_mini_batch_size=5"]
            + [f"actor_rollout_ref.{part}_micro_batch_size_per_gpu=8" for part in ("actor.ppo", "ref.log_prob", "rollout.log_prob")],
            "fatal",
            "data.train_batch_size=5 would part the two orders",
            "take an even number",
        ),
        (["+recipe/study=policy_grpo"], "fatal", "no row of the kind 'question'", "build other data"),
        (["+recipe/study=twice_data", "critic_r1.rows.number=30"], "fatal", "60 rows of the kind 'pair' are asked for", "build other data"),
        (["trainer.v1.trainer_mode=colocate_async"], "fatal", "asynchronous", "RewardPartsReplayBufferAsync"),
        (["data.train_batch_size=20"], "fatal", "not a multiple", "change"),
        (["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=7"], "fatal", "=7 does not divide the 64 rollouts", "divisor"),
        (["actor_rollout_ref.rollout.n=1"], "fatal", "nothing to compare", "2 or more"),
        (["actor_rollout_ref.rollout.n=many"], "fatal", "rollout.n=many", "correct"),
        (["actor_rollout_ref.rollout.tensor_model_parallel_size=2"], "fatal", "tensor_model_parallel_size=2", "change"),
        (["actor_rollout_ref.rollout.max_model_len=100"], "fatal", "256 tokens", "max_model_len=256"),
        (["data.train_batch_size=48"], "fatal", "only 40 training rows", "build more rows"),
        (["data.train_max_samples=8"], "fatal", "only 8 training rows", "build more rows"),
        (["data.val_files=null"], "fatal", "data.val_files is not set", "make prep"),
        (["trainer.experiment_name=mine"], "warning", "experiment_name=mine", "leave trainer.experiment_name"),
        (["trainer.resume_mode=resume_path", "trainer.resume_from_path=/nope/global_step_3"], "fatal", "does not exist", "recipe"),
    ],
)
def test_keys(world, overrides, level, what, remedy):
    only(world.examine(*overrides), level, what, remedy)


@pytest.mark.parametrize(
    ("overrides", "level", "what", "remedy"),
    [
        ([], "fatal", "no critic", "in one of these ways"),
        (["critic_r1.judge.opponents=0"], "fatal", "critic_r1.judge.opponents=0", "critic_reward.yaml"),
        (["trainer.v1.trainer_mode=colocate_async"], "fatal", "only in the synchronous mode", "leave trainer.v1.trainer_mode out"),
        (["critic_r1.judge.verdicts=coin"], "ok", "a control", ""),
        (["critic_r1.judge.base_url=http://there/v1"], "ok", "the critic mine rewards", ""),
        (["critic_r1.judge.base_url=http://nowhere/v1"], "fatal", "http://nowhere/v1/models: refused", "start the critic's server"),
        (SERVED, "fatal", "policy and critic take 12 GPUs, and this machine has 8", "trainer.n_gpus_per_node=4 reward"),
        ([*SERVED, "trainer.n_gpus_per_node=4"], "ok", "verl serves the critic runs/trained", ""),
        ([*SERVED, "trainer.nnodes=2"], "ok", "verl serves the critic", ""),
        ([*SERVED, "reward.reward_model.enable_resource_pool=false"], "fatal", "neither the ids nor the answers", "leave"),
    ],
)
def test_a_critic_that_rewards(monkeypatch, quick_compose, overrides, level, what, remedy):
    def engine(settings, served_at):
        if settings.base_url == "http://nowhere/v1":
            raise ConnectionError("http://nowhere/v1/models: refused")
        return SimpleNamespace(name="mine")

    monkeypatch.setattr(judging, "engine", engine)
    monkeypatch.setattr(devices, "gpu_count", lambda: 8)
    case = doctor.Case("critic_reward", overrides, quick_compose("critic_reward", overrides), False)
    [finding] = judge.check_judge(case)
    assert finding.level == level and what in finding.what and remedy in finding.remedy


def test_a_recipe_without_a_critic_that_rewards(world):
    assert list(judge.check_judge(world.case())) == []


# Machine


def test_versions(world, monkeypatch):
    monkeypatch.setattr(
        machine.cpu, "version_problems", lambda: ["the CPU backend was made for torch 2.11.0, found 2.9.0: run `make setup`"]
    )
    only(world.examine(), "fatal", "found 2.9.0", "make setup")


@pytest.mark.parametrize(("version", "wrong"), [("5.3.9", False), ("5.4.0", True), ("5.5.3", True), ("5.5.4", False)])
def test_a_transformers_with_wrong_positions(world, monkeypatch, version, wrong):
    installed = machine.installed
    monkeypatch.setattr(machine, "installed", lambda package: version if package == "transformers" else installed(package))
    found = [finding for finding in world.examine() if finding.level == "fatal"]
    assert [f"transformers {version}" in finding.what for finding in found] == [True] * wrong


def test_two_builds_of_vllm_at_once(world, monkeypatch):
    monkeypatch.setattr(machine, "installed", lambda package: "0.24.0")
    only(world.examine(), "fatal", "both installed", "make clean setup")


@pytest.mark.parametrize(
    "platform, gpus, hardware, level, what, remedy",
    [
        (
            "cpu",
            0,
            ("+recipe/base=tiny",),
            "fatal",
            "recipe is for cuda",
            "VERL_PLATFORM=cpu python -m verl.trainer.main_ppo +recipe=critic_r1",
        ),
        ("", 0, CPU, "fatal", "VERL_PLATFORM=cpu is not set", "type: VERL_PLATFORM=cpu python -m verl"),
        ("", 0, ("+recipe/base=tiny",), "fatal", "no GPU here", "+recipe/base=tiny +recipe/hardware=cpu"),
        ("", 4, ("+recipe/base=tiny",), "fatal", "n_gpus_per_node is 8", "trainer.n_gpus_per_node=4"),
        ("huawei", 0, ("+recipe/base=tiny",), "warning", "not counted", ""),
    ],
)
def test_platform(world, monkeypatch, platform, gpus, hardware, level, what, remedy):
    monkeypatch.setenv("VERL_PLATFORM", platform)
    monkeypatch.setattr(devices, "gpu_count", lambda: gpus)
    (finding,) = machine.check_devices(world.case(*hardware))
    assert finding.level == level
    assert what in finding.what
    assert remedy in finding.remedy


@pytest.mark.parametrize("environment, gpus, hardware", [({}, 8, ()), ({"RAY_ADDRESS": "auto"}, 0, ())])
def test_platform_that_is_right(world, monkeypatch, environment, gpus, hardware):
    monkeypatch.delenv("VERL_PLATFORM")
    monkeypatch.setattr(devices, "gpu_count", lambda: gpus)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (finding,) = machine.check_devices(world.case(*hardware))
    assert finding.level == "ok"


WITHOUT = tuple(machine.WITHOUT_FLASH_ATTN.values())


@pytest.mark.parametrize(
    "environment, gpus, installed, overrides, level",
    [
        ({}, 8, True, (), "ok"),
        ({}, 8, False, (), "fatal"),
        ({}, 8, False, WITHOUT, "ok"),
        ({}, 8, False, WITHOUT[:1], "fatal"),
        ({}, 8, False, WITHOUT[1:], "fatal"),
        ({"VERL_PLATFORM": "cpu"}, 0, False, ("+recipe/base=tiny", "+recipe/hardware=cpu"), "ok"),
        ({"VERL_PLATFORM": "cpu"}, 0, False, (), "fatal"),
        # What is installed elsewhere is not known here, and without a device there is no run.
        ({}, 0, False, (), None),
        ({"RAY_ADDRESS": "auto"}, 8, False, (), None),
        ({"VERL_PLATFORM": "huawei"}, 8, False, (), None),
    ],
)
def test_flash_attn(world, monkeypatch, environment, gpus, installed, overrides, level):
    monkeypatch.delenv("VERL_PLATFORM")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(devices, "gpu_count", lambda: gpus)
    monkeypatch.setattr(machine, "has_flash_attn", lambda: installed)
    findings = list(machine.check_flash_attn(world.case(*overrides)))
    assert [finding.level for finding in findings] == [level] * bool(level)
    assert level != "fatal" or all(override in findings[0].remedy for override in WITHOUT)


def test_the_line_to_type_can_be_typed(world):
    override = "data.train_files=[a b.parquet]"
    (finding,) = machine.check_devices(world.case(override))
    assert f"'{override}'" in finding.remedy


def test_batches_for_eight_gpus(world):
    case = world.case("actor_rollout_ref.rollout.n=5", "trainer.n_gpus_per_node=6")
    assert [finding.level for finding in recipe.check_batches(case)] == ["fatal"]


@pytest.mark.parametrize(
    "memory_gib, free_gib, what", [(5.0, 500, "of memory available, 6 GiB are needed"), (8.0, 1, "free in /dev/shm, 2 GiB are needed")]
)
def test_memory(world, monkeypatch, memory_gib, free_gib, what):
    monkeypatch.setattr(devices, "available_memory", lambda: memory_gib * GIB)
    monkeypatch.setattr(
        space.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free_gib * GIB if path == space.SHM else 50 * GIB})
    )
    only(world.examine(), "fatal", what)


def test_disk(world, monkeypatch):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3 * GIB}))
    only(world.examine(), "fatal", "3.0 GiB free on the disk of", "max_actor_ckpt_to_keep")


def test_an_occupied_port(world):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        overrides = ["actor_rollout_ref.rollout.prometheus.enable=true", f"actor_rollout_ref.rollout.prometheus.port={port}"]
        only(world.examine(*overrides), "fatal", f"port {port} is occupied", "prometheus.port")
    assert bad(world.examine(*overrides)) == []


def test_leftovers(world, monkeypatch):
    monkeypatch.setattr(supervise, "leftovers", lambda: [supervise.Leftover("abc", ((17, "ray::WorkerDict"),), ("psm_1",), None)])
    only(world.examine(), "warning", "process 17 (ray::WorkerDict), 1 shared-memory segment(s)", "critic-r1 doctor --clean")


# Data


def break_column(world):
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(world.train).rename_columns(["source" if c == "data_source" else c for c in rows.SHAPE]), world.train)
    write_manifest(world.data)


def break_label(world):
    table = rows.read_rows(world.train)
    table[-1]["reward_model"]["ground_truth"] = "3"
    rows.write_parquet(world.train, table)
    write_manifest(world.data)


def break_placeholder(world):
    table = rows.read_rows(world.val)
    table[0]["prompt"][0]["content"] += "<image>"
    rows.write_parquet(world.val, table)
    write_manifest(world.data)


def break_bytes(world):
    world.train.write_bytes(b"PAR1 no")
    write_manifest(world.data)


@pytest.mark.parametrize(
    "harm, whats",
    [
        (lambda world: world.train.unlink(), ["data.train_files", "does not exist"]),
        (break_column, ["train.parquet: column 'data_source' is missing"]),
        (break_label, ["train.parquet: row 39: ground_truth '3'"]),
        (break_placeholder, ["val.parquet: row 0: prompt has 2 <image> placeholders for 1 images"]),
        (break_bytes, ["train.parquet: not a readable parquet file"]),
        (lambda world: make_data(world.data, "train", 41), ["train.parquet is not the file that manifest.json describes"]),
        (lambda world: (world.data / "manifest.json").write_text("[]"), ["manifest.json is not a manifest"]),
        (lambda world: (world.data / "images" / "red.png").write_bytes(b"\x89PNG"), ["row 0", "images/red.png", "does not open"]),
        (lambda world: (world.data / "images" / "red.png").unlink(), ["images/red.png", "does not open"]),
    ],
    ids=["missing", "column", "label", "placeholder", "bytes", "changed", "manifest", "corrupt image", "no image"],
)
def test_data(world, harm, whats):
    harm(world)
    findings = bad(world.examine())
    assert findings and {finding.level for finding in findings} == {"fatal"}
    assert all(part in findings[0].what for part in whats)
    assert "make prep" in findings[0].remedy
    assert len(findings) <= 8


def test_a_row_with_more_images_than_vllm_is_told(world):
    findings = bad(world.examine("critic_r1.max_images=0"))
    assert len(findings) == 2
    assert all("row 0 has 1 images, and vLLM is told to expect 0" in finding.what for finding in findings)
    assert {finding.remedy for finding in findings} == {"add critic_r1.max_images=1"}


def test_prompts_that_are_longer_than_the_limit(world):
    manifest = json.loads((world.data / "manifest.json").read_text())
    write_json(world.data / "manifest.json", {**manifest, "corpora": {}, "templates": {}, "lengths": {"median": 90, "max": 117}})
    findings = bad(world.examine("data.max_prompt_length=60"))
    assert len(findings) == 2 and all("the longest prompt of" in finding.what and "117 tokens" in finding.what for finding in findings)
    assert findings[0].remedy.startswith("add data.max_prompt_length=117")
    assert bad(world.examine("data.max_prompt_length=117")) == []


def test_a_missing_manifest_is_a_warning(world):
    (world.data / "manifest.json").unlink()
    findings = bad(world.examine())
    assert {(finding.level, "written last" in finding.what) for finding in findings} == {("warning", True)}


def test_not_deep_opens_no_row(world):
    break_label(world)
    assert bad(doctor.examine("critic_r1", world.overrides(), deep=False)) == []


# What the model will see

ROW = {"tokens": 76, "image_tokens": 8, "images": 1, "sizes": ["112 x 56"], "text": "<|im_start|>user\nWhich?"}
ROW |= {"answer": "2", "score": 1.0, "right": True}


@pytest.mark.parametrize(
    ("change", "overrides", "level", "what"),
    [
        (
            {},
            [],
            "ok",
            "the model will see of row 0 76 tokens, 8 of them of 1 image(s) (112 x 56), and earn 1 for '2': <|im_start|>user Which?",
        ),
        ({"images": 0, "image_tokens": 0}, [], "ok", "see of row 0 76 tokens, and earn"),
        ({"image_tokens": 0}, [], "fatal", "training row 0: its 1 image(s) do not reach the model"),
        ({}, ["data.max_prompt_length=60"], "fatal", "training row 0: 76 tokens, more than data.max_prompt_length=60"),
        ({"right": False, "score": 0.1}, [], "fatal", "training row 0: its own answer '2' is not right for the reward, which pays 0.1"),
    ],
)
def test_the_first_rows(world, monkeypatch, change, overrides, level, what):
    """As they were told by the process that loads them (tests/e2e/test_dataset.py runs it)."""
    told = f"Using dataset class: CriticDataset\nfirst rows: {json.dumps([ROW | change])}\n"
    monkeypatch.setattr(first_rows.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, told, ""))
    findings = doctor.examine("critic_r1", world.overrides(*overrides), first_rows=True)
    assert findings[-1].level == level and what in findings[-1].what
    assert all(finding.level == "ok" for finding in findings[:-1])


def test_first_rows_that_cannot_be_read(world, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "Using dataset class\n", "Traceback\nKeyError: 'question'\n")
    monkeypatch.setattr(first_rows.subprocess, "run", lambda *_, **__: failed)
    only(doctor.examine("critic_r1", world.overrides(), first_rows=True), "fatal", "KeyError: 'question'", "correct the key")


# Base model


def test_an_unknown_base(world):
    only(world.examine("actor_rollout_ref.model.path=models/none/here"), "fatal", "no such folder", "make prep")


@pytest.mark.parametrize(
    "harm, what",
    [
        (lambda base: (base / "config.json").unlink(), "config.json is missing"),
        (lambda base: (base / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda base: (base / "model.safetensors").unlink(), "no weights"),
        (lambda base: (base / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda base: (base / "processor_config.json").unlink(), "takes no images"),
        (
            lambda base: (base / "processor_config.json").write_text('{"processor_class": "LlavaProcessor"}'),
            "does not accept its processor LlavaProcessor",
        ),
        (
            lambda base: (base / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model.safetensors", "b": "2.safetensors"}}'
            ),
            "2.safetensors is missing (1 of 2",
        ),
        (
            lambda base: (base / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'),
            "weight_map of model.safetensors.index.json does not name a file",
        ),
        (
            lambda base: (base / "model.safetensors.index.json").write_text('{"weight_map": []}'),
            "weight_map of model.safetensors.index.json does not name a file",
        ),
    ],
)
def test_base(world, harm, what):
    harm(world.base)
    only(world.examine(), "fatal", what)


def change(base: Path, file: str, **content) -> None:
    found = json.loads((base / file).read_text())
    (base / file).write_text(json.dumps(found | content))


HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "hidden_size": 256, "vocab_size": 640}
OPENING = "{{ messages[0].role }}{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"
TENSOR_PARALLEL = ["actor_rollout_ref.rollout.tensor_model_parallel_size=3", "trainer.n_gpus_per_node=3", "actor_rollout_ref.rollout.n=6"]


@pytest.mark.parametrize(
    "harm, overrides, what, remedy",
    [
        (
            lambda base: change(base, "processor_config.json", processor_class="MllamaProcessor"),
            [],
            "vLLM dropped it after 0.10.2",
            "Qwen3-VL",
        ),
        (
            lambda base: change(base, "config.json", text_config=HEADS, vision_config={"num_heads": 16, "intermediate_size": 3420}),
            TENSOR_PARALLEL,
            "=3 does not divide 4 (attention heads), 16 (attention heads of the vision tower), 2 (key-value heads)",
            "divisor",
        ),
        (
            lambda base: change(base, "config.json", **HEADS | {"num_attention_heads": 6}),
            [*TENSOR_PARALLEL],
            "=3 does not divide 2 (key-value heads)",
            "divisor",
        ),
        (
            lambda base: change(base, "config.json", tie_word_embeddings=False),
            ["actor_rollout_ref.model.use_fused_kernels=true"],
            "a head that is not tied fail together",
            "use_fused_kernels=false",
        ),
        (lambda base: change(base, "tokenizer_config.json", chat_template=None), [], "no chat template", "custom_chat_template"),
        (lambda base: change(base, "tokenizer_config.json", chat_template=OPENING), [], "opens the think block", "thought_opened=true"),
        (lambda base: None, ["critic_r1.thought_opened=true"], "does not open the think block", "thought_opened=false"),
        (
            lambda base: change(base, "tokenizer.json", added_tokens=[{"content": "<think>", "special": True}]),
            [],
            "<think> for a special token",
            '"special": false',
        ),
    ],
    ids=["mllama", "heads", "key-value heads", "fused kernels", "no template", "opened", "not opened", "special token"],
)
def test_a_base_that_does_not_suit_the_run(world, harm, overrides, what, remedy):
    harm(world.base)
    only(
        [finding for finding in world.examine(*overrides) if "base" in finding.what and "starts anew" not in finding.what],
        "fatal",
        what,
        remedy,
    )


@pytest.mark.parametrize(
    "harm, overrides",
    [
        (lambda base: change(base, "config.json", tie_word_embeddings=True), ["actor_rollout_ref.model.use_fused_kernels=true"]),
        (lambda base: change(base, "tokenizer_config.json", chat_template=OPENING), ["critic_r1.thought_opened=true"]),
        (
            lambda base: change(base, "tokenizer_config.json", chat_template=[{"name": "default", "template": OPENING}]),
            ["+data.apply_chat_template_kwargs.enable_thinking=false"],
        ),
        (lambda base: (base / "chat_template.jinja").write_text("{{ messages[0].role }}<think>\n\n</think>"), []),
        (lambda base: change(base, "config.json", **HEADS | {"tie_word_embeddings": False}), []),
    ],
)
def test_a_base_that_suits_the_run(world, harm, overrides):
    harm(world.base)
    assert bad(world.examine(*overrides)) == []


def test_a_template_that_is_broken(world):
    change(world.base, "tokenizer_config.json", chat_template="{% for %}")
    only(world.examine(), "warning", "its chat template was not rendered here: TemplateSyntaxError")


def test_the_shape_of_a_base(tmp_path):
    folder = make_base(tmp_path / "base")
    assert shape.read(folder).parameters is None
    change(folder, "config.json", **HEADS)
    header = json.dumps({"__metadata__": {}, "a": {"shape": [3, 4]}, "b": {"shape": [5]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    found = shape.read(folder)
    assert (found.parameters, found.heads, found.key_value_heads, found.tied) == (17, 4, 2, None)


# What a run takes of a GPU machine


ONE_GPU = ["trainer.n_gpus_per_node=1", "actor_rollout_ref.rollout.tensor_model_parallel_size=1"]
SMALL = ("+recipe/base=qwen2_5_vl_3b", "+recipe/method=lora", "+recipe/hardware=1x24g")
MODEL = "actor_rollout_ref.model.path=Qwen/Qwen2.5-VL-{}B-Instruct"


@pytest.fixture
def gpu_world(world, monkeypatch):
    """A machine with GPUs, and models whose sizes the planner has counted."""
    golden = json.loads((Path(__file__).parent / "golden" / "model_sizes.json").read_text())
    models = {f"Qwen/Qwen2.5-VL-{size}B-Instruct": sizes.Sizes(**golden[f"qwen2_5_vl_{size.lower()}b"]) for size in ("3", "7")}
    monkeypatch.setattr(devices, "gpu_count", lambda: 8)
    monkeypatch.setattr(devices, "available_memory", lambda: 2000 * GIB)
    monkeypatch.setattr(space, "gpu_memory", lambda: 80 * GIB)
    monkeypatch.setattr(space, "base_sizes", models.get)
    return world


@pytest.mark.parametrize(
    "overrides, groups, card_gib, level, what",
    [
        ([], (), 80, "ok", "update 45 of 80 GiB"),
        ([], SMALL, 24, "ok", "planned for each GPU"),
        ([MODEL.format(7)], SMALL, 20, "fatal", "KV cache: rollout.gpu_memory_utilization=0.6 leaves room for 0 tokens"),
        (ONE_GPU, (), 80, "fatal", "GPU memory of the update: 153 GiB are needed, a GPU has 80; the largest part is optimiser"),
        ([], (), 40, "warning", "GPU memory of the update: 45 GiB are needed, a GPU has 40"),
        ([MODEL.format(9)], (), 80, None, ""),
        (["trainer.device=cpu"], (), 80, None, ""),
    ],
)
def test_gpu_memory(gpu_world, monkeypatch, overrides, groups, card_gib, level, what):
    monkeypatch.setattr(space, "gpu_memory", lambda: card_gib * GIB)
    findings = list(space.check_memory(gpu_world.case(*groups, *overrides)))
    assert max((finding.level for finding in findings), key=["ok", "warning", "fatal"].index, default=None) == level
    assert not level or any(what in finding.what and finding.level == level for finding in findings), findings
    assert all(bool(finding.remedy) == (finding.level != "ok") for finding in findings)


@pytest.mark.parametrize(("there_gib", "level"), [(300, "ok"), (190, "warning"), (150, "fatal")])
def test_host_memory(gpu_world, monkeypatch, there_gib, level):
    monkeypatch.setattr(devices, "available_memory", lambda: there_gib * GIB)
    (finding,) = space.check_memory(gpu_world.case())
    assert finding.level == level and ("agent.num_workers" in finding.remedy) == (level != "ok")


@pytest.mark.parametrize(
    "overrides, groups, cpus, level",
    [
        ([], (), 33, "ok"),
        ([], (), 32, "fatal"),
        ([], SMALL, 8, "ok"),
        (["transfer_queue.backend.SimpleStorage.num_data_storage_units=8"], SMALL, 8, "fatal"),
        (["transfer_queue.backend.SimpleStorage.num_data_storage_units=8", "ray_kwargs.ray_init.num_cpus=12"], SMALL, 8, "ok"),
        (["trainer.nnodes=2"], (), 30, "ok"),
    ],
)
def test_cpus(world, monkeypatch, overrides, groups, cpus, level):
    monkeypatch.setattr(devices, "cpus", lambda: cpus)
    (finding,) = space.check_cpus(world.case(*groups, *overrides))
    assert finding.level == level and ("num_cpus=" in finding.remedy) == (level == "fatal")


@pytest.mark.parametrize(
    "overrides, disk_gib, shm_gib, wrong",
    [
        ([], 400, 16, []),
        ([], 240, 16, [("warning", "329 GiB are needed for 3 checkpoint(s) of 92.7 GiB")]),
        ([], 70, 16, [("fatal", "329 GiB are needed")]),
        (["trainer.max_actor_ckpt_to_keep=null"], 400, 16, [("warning", "for 10 checkpoint(s)")]),
        ([], 400, 0.06, [("warning", "0.1 GiB free in /dev/shm, 8 GiB")]),
    ],
)
def test_space_on_gpus(gpu_world, monkeypatch, overrides, disk_gib, shm_gib, wrong):
    free = {space.SHM: shm_gib}
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free.get(path, disk_gib) * GIB}))
    findings = bad(list(space.check_space(gpu_world.case("trainer.total_training_steps=100", *overrides))))
    assert [finding.level for finding in findings] == [level for level, _ in wrong]
    assert all(what in finding.what and finding.remedy for finding, (_, what) in zip(findings, wrong, strict=True))


def test_a_resumed_run_needs_the_disk_for_what_it_adds(gpu_world, monkeypatch):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100 * GIB}))
    case = gpu_world.case("trainer.total_training_steps=100", f"trainer.default_local_dir={gpu_world.checkpoints}")
    assert bad(list(space.check_space(case)))
    for step in (10, 20, 30):
        actor = gpu_world.checkpoints / f"global_step_{step}" / "actor"
        actor.mkdir(parents=True)
        with (actor / "optim_world_size_8_rank_0.pt").open("wb") as file:
            # Nothing is written.
            file.truncate(90 * GIB)
    assert bad(list(space.check_space(case))) == []


# A Ray cluster


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_cluster_that_suits_the_run(world, listener, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listener}")
    absolute = [f"{key}=/shared/{key}" for key in ("data.train_files", "data.val_files", "trainer.default_local_dir")]
    (finding,) = cluster.check_cluster(world.case(*absolute))
    assert finding.level == "ok"


def test_several_nodes_need_a_cluster(world):
    only(list(cluster.check_cluster(world.case("trainer.nnodes=2"))), "fatal", "no Ray cluster is named", "RAY_ADDRESS=")
    assert list(cluster.check_cluster(world.case())) == []


@pytest.mark.parametrize(
    "address, overrides, whats, remedy",
    [
        ("127.0.0.1:1", [], ["no Ray cluster answers at 127.0.0.1:1: ", "relative path"], "ray start --head"),
        ("head", [], ["no Ray cluster answers at head: that is not HOST:PORT", "relative path"], "correct RAY_ADDRESS"),
        ("auto", [], ["`ray start` has not run on this machine", "relative path"], "ray start --head"),
        ("LISTENER", ["ray_kwargs.ray_init.num_cpus=8"], ["num_cpus cannot be given", "relative path"], "ray_init.num_cpus=null"),
        ("LISTENER", [], ["data.train_files, data.val_files: a cluster's workers run where"], "data.train_files="),
        (
            "LISTENER",
            ["actor_rollout_ref.model.path=base"],
            ["actor_rollout_ref.model.path, trainer.default_local_dir, data"],
            "model.path=/",
        ),
    ],
)
def test_a_cluster_that_does_not(world, listener, monkeypatch, tmp_path, address, overrides, whats, remedy):
    monkeypatch.setattr(cluster, "CURRENT_CLUSTER", tmp_path / "none")
    monkeypatch.setenv("RAY_ADDRESS", address.replace("LISTENER", f"127.0.0.1:{listener}"))
    findings = bad(list(cluster.check_cluster(world.case(*overrides))))
    assert [finding.level for finding in findings] == ["fatal"] * len(whats)
    assert all(what in finding.what for finding, what in zip(findings, whats, strict=True))
    assert remedy in findings[0].remedy


def test_a_hub_name(world, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    override = "actor_rollout_ref.model.path=some/Model"
    listing = hub.Listing("some/Model", "model", "main", "abc", {"model.safetensors": 16_600_000_000})
    monkeypatch.setattr(hub, "ask", lambda *_: listing)
    assert any("will be downloaded from the hub when training starts (16.6 GB)" in finding.what for finding in world.examine(override))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    only(world.examine(override), "fatal", "nor complete in the hub's cache", "unset HF_HUB_OFFLINE")
    cached = tmp_path / "hub" / "models--some--Model"
    make_base(cached / "snapshots" / "abc", "Qwen2VLProcessor")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert any("some/Model: complete, Qwen2VLProcessor" in finding.what for finding in world.examine(override))


# Name and resuming


def test_a_run_resumes_its_own_checkpoint(world):
    steps = "trainer.total_training_steps=15"
    config = world.compose(steps)
    doctor.claim(config)
    folder = world.save_checkpoint(config)
    assert json.loads((folder / doctor.CLAIM).read_text())["digest"] in folder.name
    findings = world.examine(steps)
    assert bad(findings) == []
    assert any(finding.what.startswith("resumes at step 10 of 15") for finding in findings)
    doctor.claim(config)


def test_a_checkpoint_started_by_main_ppo_itself_has_only_its_name(world):
    world.save_checkpoint(world.compose())
    assert any(finding.what.startswith("resumes at step 10") for finding in world.examine())


@pytest.mark.parametrize("claimed", [True, False])
def test_another_runs_checkpoint_under_a_name_given_by_hand(world, claimed):
    mine = f"trainer.default_local_dir={world.root}/mine"
    config = world.compose(mine)
    if claimed:
        doctor.claim(config)
    world.save_checkpoint(config)
    changed = [mine, "actor_rollout_ref.actor.optim.lr=1e-3"]
    only(world.examine(*changed), "fatal", "another run" if claimed else "not known", "leave trainer.experiment_name")
    with pytest.raises(ValueError, match=r"leave trainer\.experiment_name"):
        doctor.claim(world.compose(*changed))


def test_another_base_under_the_same_name_never_resumes(world):
    mine = f"trainer.default_local_dir={world.root}/mine"
    doctor.claim(world.compose(mine))
    world.save_checkpoint(world.compose(mine))
    other = make_base(world.root / "other")
    only(world.examine(mine, f"actor_rollout_ref.model.path={other}"), "fatal", str(world.base))


def test_a_checkpoint_of_another_number_of_gpus(world):
    config = world.compose()
    doctor.claim(config)
    actor = world.save_checkpoint(config) / "global_step_10" / "actor"
    actor.mkdir()
    for rank in range(2):
        (actor / f"model_world_size_2_rank_{rank}.pt").touch()
    only(world.examine(), "fatal", "was saved by 2 GPUs and this run has 1", "trainer.n_gpus_per_node")


def test_a_broken_claim(world):
    config = world.compose()
    (world.save_checkpoint(config) / doctor.CLAIM).write_text("{}")
    only(world.examine(), "fatal", "cannot be read")


def test_starting_anew_over_checkpoints_is_a_warning(world):
    world.save_checkpoint(world.compose())
    only(world.examine("trainer.resume_mode=disable"), "warning", "overwrite")


def test_show(capsys):
    doctor.show([doctor.Finding("fatal", "a [b] is wrong", "do [c]"), doctor.Finding("ok", "fine")])
    assert capsys.readouterr().out.split("\n")[:2] == [line.ljust(len(line)) for line in ("fatal  a [b] is wrong", "       -> do [c]     ")]
