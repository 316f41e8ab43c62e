# SPDX-License-Identifier: Apache-2.0
"""The faults of verl that training/patches.py mends, each on a small random Qwen2.5-VL; without its patch, each of these tests fails."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_bases
import torch

# Importing verl applies the patches, by its entry point.
pytest.importorskip("verl")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bases.build("qwen2_5_vl", ["Which is better? \\boxed{1}"] * 5, tmp_path_factory.mktemp("base"))


def load(base: Path, **options: Any) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(base, **options)


def test_a_batch_without_an_image_reaches_every_weight(base: Path) -> None:
    from verl.models.transformers.qwen2_vl import qwen2_vl_base_forward

    model = load(base)
    model.lm_head.requires_grad_(False)
    ids = torch.arange(20, 40).reshape(1, -1)
    positions = torch.arange(20).expand(4, 1, 20)
    text_only = qwen2_vl_base_forward(model.model, ids, position_ids=positions).last_hidden_state
    assert torch.equal(text_only, model.model(input_ids=ids, position_ids=positions[1:]).last_hidden_state)
    text_only.sum().backward()
    # Every rank of FSDP reduces the same gradients, those of the vision tower too.
    assert [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None] == []
    assert all(not weight.grad.any() for weight in model.model.visual.parameters())


def test_a_batch_with_an_image_goes_through_verls_own_code(base: Path) -> None:
    from verl.models.transformers.qwen2_vl import qwen2_vl_base_forward

    model = load(base)
    ids = torch.full((1, 12), 20)
    ids[0, 4:8] = model.config.image_token_id
    grid, positions = torch.tensor([[1, 4, 4]]), torch.arange(12).expand(4, 1, 12)
    pixels = torch.rand(16, 3 * 2 * 14 * 14)
    seen = qwen2_vl_base_forward(model.model, ids, position_ids=positions, pixel_values=pixels, image_grid_thw=grid)
    unseen = qwen2_vl_base_forward(model.model, ids, position_ids=positions, pixel_values=pixels * 0, image_grid_thw=grid)
    assert not torch.equal(seen.last_hidden_state, unseen.last_hidden_state)


def test_rotary_frequencies_stay_exact_in_half_precision(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as transformers_own
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    for name in ("Qwen2_5_VLModel", "Qwen2_5_VLForConditionalGeneration"):
        # verl exchanges their forward for the whole process; this puts it back after the test.
        monkeypatch.setattr(getattr(transformers_own, name), "forward", getattr(transformers_own, name).forward)
    config = AutoConfig.from_pretrained(base)
    # verl builds an untied model on one rank only, which it would ask torch.distributed for.
    config.tie_word_embeddings = True
    engine = SimpleNamespace(
        engine_config=SimpleNamespace(model_dtype="bfloat16", forward_only=True),
        model_config=SimpleNamespace(
            hf_config=config,
            model_type="language_model",
            local_path=str(base),
            trust_remote_code=False,
            use_liger=False,
            use_fused_kernels=False,
            fused_kernel_options=None,
            enable_gradient_checkpointing=False,
        ),
        device_mesh=None,
        use_remove_padding=False,
        ulysses_sequence_parallel_size=1,
    )
    built, exact = FSDPEngine._build_module(engine), dict(load(base).named_buffers())
    assert {weight.dtype for weight in built.parameters()} == {torch.bfloat16}
    frequencies = {name: buffer for name, buffer in built.named_buffers() if "inv_freq" in name}
    assert frequencies and all(torch.equal(buffer, exact[name]) for name, buffer in frequencies.items())


@pytest.mark.parametrize("lengths", [(5, 5, 5), (4, 4, 4), (5, 7, 5), (5,)])
@pytest.mark.parametrize("axes", [3, 4])
def test_rows_of_equal_length_keep_their_position_ids(axes: int, lengths: tuple[int, ...]) -> None:
    from tensordict import TensorDict
    from verl.utils import tensordict_utils

    rows = [torch.arange(axes * length).view(axes, length) + number for number, length in enumerate(lengths)]
    # As the queue joins what it was given.
    data = TensorDict({"position_ids": torch.nested.as_nested_tensor(rows, layout=torch.jagged)}, batch_size=len(rows))
    for _ in range(2):
        # verl asks for it before each use of a batch.
        tensordict_utils.maybe_fix_3d_position_ids(data)
    selected = tensordict_utils.index_select_tensor_dict(data, list(range(len(rows)))[::-1])["position_ids"].unbind()
    assert all(map(torch.equal, selected, rows[::-1]))
