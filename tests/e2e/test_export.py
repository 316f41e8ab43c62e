# SPDX-License-Identifier: Apache-2.0
"""A LoRA checkpoint as verl writes it, made by hand from a small Qwen2.5-VL: what is exported computes as the trained model does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from critic_r1_verl.training.export import export


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import base as digits_base

    folder = tmp_path_factory.mktemp("base")
    size = digits_base.Size(hidden=128, layers=1, vision_hidden=32, vision_layers=1, vocabulary=300)
    digits_base.build(["Which is better? <think>The first.</think> \\boxed{1}"], folder, size)
    return folder


def load(folder: Path) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def test_a_lora_checkpoint_is_exported_as_the_trained_model(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraConfig, TaskType, get_peft_model

    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    torch.manual_seed(0)
    # As verl builds it: workers/engine/fsdp/transformer_impl.py.
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, target_modules="all-linear", exclude_modules=".*visual.*", bias="none"
    )
    trained = get_peft_model(load(base), config)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    # As verl saves it: utils/checkpoint/fsdp_checkpoint_manager.py.
    actor = tmp_path / "global_step_3" / "actor"
    shutil.copytree(base, actor / "huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(trained.state_dict(), actor / "model_world_size_1_rank_0.pt")
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    (actor / "lora_train_meta.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}))

    assert export(actor.parent, tmp_path / "out") == actor.parent
    exported, tokens = load(tmp_path / "out"), torch.arange(20, 60)[None]
    with torch.no_grad():
        logits, exported_logits = trained(input_ids=tokens).logits, exported(input_ids=tokens).logits
        with trained.disable_adapter():
            base_logits = trained(input_ids=tokens).logits
    moved = (logits - base_logits).abs().max()
    assert moved > 0.5
    # The exported weights are rounded to bfloat16.
    assert (exported_logits - logits).abs().max() < 0.02 * moved
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.chat_template == (base / "chat_template.jinja").read_text()
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == processor.tokenizer.eos_token_id


class Program:
    """Writes a file when it is read as a pickle."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return self.file.touch, ()


def test_a_checkpoint_that_is_a_program_is_not_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    actor = tmp_path / "global_step_3" / "actor"
    shutil.copytree(base, actor / "huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({"weight": torch.zeros(2), "more": Program(tmp_path / "it ran")}, actor / "model_world_size_1_rank_0.pt")
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    with pytest.raises(ValueError, match=r"actor: holds something else than weights .*set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"):
        export(actor.parent, tmp_path / "out")
    assert not (tmp_path / "it ran").exists()
