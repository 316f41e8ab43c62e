# SPDX-License-Identifier: Apache-2.0
"""The merging of adapters; here because importing torch takes longer than all of these tests."""

import json
from pathlib import Path

import pytest
import torch

from critic_r1_verl.training import lora

LAYER = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
WEIGHT = "model.language_model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def actor(tmp_path: Path) -> Path:
    (tmp_path / lora.META).write_text(json.dumps({"r": 2, "lora_alpha": 8, "task_type": "CAUSAL_LM"}))
    return tmp_path


def state(*, b: float = 0.5, **changed):
    """The tensors of a PEFT model with one adapted layer, by name; a value of None leaves one out."""
    tensors = {
        f"{LAYER}.base_layer.weight": torch.full((3, 4), 0.25, dtype=torch.bfloat16),
        f"{LAYER}.base_layer.bias": torch.ones(3),
        f"{LAYER}.lora_A.default.weight": torch.arange(8.0).reshape(2, 4),
        f"{LAYER}.lora_B.default.weight": torch.full((3, 2), b),
        "base_model.model.lm_head.weight": torch.ones(2, 2),
    }
    tensors |= {f"{LAYER}.{name}": value for name, value in changed.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def test_adapters_are_merged_and_names_are_the_models(actor):
    tensors = state()
    adapters = lora.merge(tensors, actor)
    # alpha / rank = 4; each entry of B A is 0.5 * (column + column + 4).
    expected = torch.tensor([[0.25 + 4 * (column + 2) for column in range(4)]] * 3)
    assert sorted(tensors) == ["lm_head.weight", WEIGHT.replace("weight", "bias"), WEIGHT]
    assert tensors[WEIGHT].dtype == torch.bfloat16
    assert torch.equal(tensors[WEIGHT], expected.bfloat16())
    assert list(adapters) == [WEIGHT]
    lora.check(adapters, tensors, actor)


def test_a_model_without_adapters_is_left_alone(actor):
    tensors = {"model.norm.weight": torch.ones(2)}
    assert lora.merge(tensors, actor) == {}
    assert list(tensors) == ["model.norm.weight"]
    lora.check({}, tensors, actor)


@pytest.mark.parametrize(
    ("changed", "meta", "message"),
    [
        ({"base_layer.weight": None}, None, "lacks its base weight .*save_lora_only=false"),
        ({"lora_B.default.weight": None}, None, "lacks its base weight or one of its two LoRA matrices"),
        ({"lora_embedding_A.default": 0}, None, "q_proj.lora_embedding_A.default is no LoRA matrix of a linear layer"),
        ({"lora_magnitude_vector.default.weight": 0}, None, "is no LoRA matrix of a linear layer"),
        ({"b": 0.0}, None, "all 1 lora_B matrices are zero, so the model is still its base"),
        ({}, "", "lora_train_meta.json: no rank and alpha"),
        ({}, '{"r": 2}', "lora_train_meta.json: no rank and alpha"),
        ({}, '{"r": 2, "lora_alpha": 0}', "r=2 and lora_alpha=0 are not both above 0"),
    ],
)
def test_what_cannot_be_merged_is_refused(actor, changed, meta, message):
    if meta is not None:
        (actor / lora.META).write_text(meta)
    with pytest.raises(ValueError, match=message):
        lora.merge(state(**changed), actor)


@pytest.mark.parametrize(
    ("b", "written", "message"),
    [
        # What verl's own merger writes: the base. Then a merge with the wrong scale, and one that rounding lost.
        (0.5, lambda adapter: adapter.base, "is not the base with its adapter merged"),
        (0.5, lambda adapter: adapter.base.float() + adapter.change() / 4, "is not the base with its adapter merged"),
        (1e-6, lambda adapter: adapter.base, "every merged weight is that of the base"),
    ],
)
def test_another_model_than_the_trained_one_is_noticed(actor, b, written, message):
    adapters = lora.merge(state(b=b), actor)
    with pytest.raises(ValueError, match=message):
        lora.check(adapters, {WEIGHT: written(adapters[WEIGHT])}, actor)
