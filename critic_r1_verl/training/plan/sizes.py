# SPDX-License-Identifier: Apache-2.0
"""What a plan knows of a model: parameters counted on the meta device, widths, and verl's own count of floating-point operations."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic_r1_verl import hub


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A model in numbers. The operations are those of forward and backward together, of verl 0.9.1's utils/flops_counter.py.

    linears: for each kind of linear layer, as "language.q_proj" or "vision.qkv", the sum of (inputs + outputs) over all layers; an adapter
    of rank r has r times as many parameters. patches_per_token: patches of an image that are merged into one token.
    """

    model_type: str
    parameters: int
    vision_parameters: int
    layer_parameters: int
    vocabulary: int
    tied: bool
    hidden: int
    intermediate: int
    layers: int
    query: int
    key_value: int
    head_norms: bool
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    patch_pixels: int
    patches_per_token: int
    flops_token: float
    flops_token_squared: float
    flops_patch: float
    flops_patch_squared: float
    linears: Mapping[str, int]

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache for one token in half precision, over all layers: 57,344 for Qwen2.5-VL-7B."""
        return self.layers * 2 * self.key_value * 2

    @property
    def head_parameters(self) -> int:
        return self.vocabulary * self.hidden

    def flops(self, tokens: float, rollouts: float, patches: float, images: float) -> float:
        """Operations of one forward and backward over so many rollouts of equal lengths with images of equal sizes."""
        language = self.flops_token * tokens + self.flops_token_squared * tokens**2 / max(rollouts, 1)
        return language + self.flops_patch * patches + self.flops_patch_squared * patches**2 / max(images, 1)


def config_file(base: str) -> Path:
    """config.json of a model's folder or, by a hub id, from the hub or its cache. ValueError, with the remedy, if it cannot be had."""
    folder = hub.fetch(base, "base", files=["config.json"])
    if not (folder / "config.json").is_file():
        raise ValueError(f"base {base}: config.json is missing in this folder; give the folder of a model in Hugging Face format")
    return folder / "config.json"


def of_base(base: str) -> Sizes:
    """The Sizes of a model's folder, or of a hub id. ValueError if its config.json is missing or not understood."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    file = config_file(base)
    try:
        config = AutoConfig.from_pretrained(file.parent, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except (ValueError, OSError, KeyError, AttributeError) as error:
        raise ValueError(f"{file}: transformers builds no model of images and texts from it ({error!s:.200})") from error
    text, vision = config.get_text_config(), config.vision_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Sizes(
        model_type=config.model_type,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vision_parameters=sum(parameter.numel() for name, parameter in model.named_parameters() if ".visual." in name),
        layer_parameters=sum(parameter.numel() for name, parameter in model.named_parameters() if ".language_model.layers.0." in name),
        vocabulary=text.vocab_size,
        tied=bool(config.tie_word_embeddings),
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        query=head * text.num_attention_heads,
        key_value=head * text.num_key_value_heads,
        head_norms=any(name.endswith(".q_norm.weight") for name, _ in model.named_parameters()),
        vision_hidden=vision.hidden_size,
        vision_intermediate=vision.intermediate_size,
        vision_layers=vision.depth,
        patch_pixels=vision.patch_size**2,
        patches_per_token=vision.spatial_merge_size**2,
        linears=_linears(model),
        **_operations(config),
    )


def _linears(model: Any) -> dict[str, int]:
    import torch

    found: Counter[str] = Counter()
    for name, module in model.named_modules():
        # peft leaves the output layer out of "all-linear".
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head"):
            part = "vision" if ".visual." in name else "language"
            found[f"{part}.{name.rsplit('.', 1)[-1]}"] += module.in_features + module.out_features
    return dict(found)


def _operations(config: Any) -> dict[str, float]:
    """The coefficients of verl's counter, which is linear in the numbers of tokens and patches and in their squares."""
    from verl.utils.flops_counter import ESTIMATE_FUNC

    counter = ESTIMATE_FUNC.get(config.model_type)
    if counter is None:
        raise ValueError(
            f"verl counts no operations of a model of the type {config.model_type}; it knows {', '.join(sorted(ESTIMATE_FUNC))}"
        )

    def count(tokens: int, patches: int) -> float:
        # The counter divides by seconds and gives trillions.
        return 1e12 * counter(config, tokens, [tokens], 1.0, images_seqlens=[patches])

    def coefficients(one: float, two: float) -> tuple[float, float]:
        squared = (two - 2 * one) / (2 * unit**2)
        return one / unit - squared * unit, squared

    unit = 1000
    token, token_squared = coefficients(count(unit, 0), count(2 * unit, 0))
    patch, patch_squared = coefficients(count(0, unit), count(0, 2 * unit))
    # verl counts full attention in every vision layer; Qwen2.5-VL has it in a few and windows of fixed size in the others.
    full = getattr(config.vision_config, "fullatt_block_indexes", None)
    patch_squared *= len(full) / config.vision_config.depth if full else 1
    return {"flops_token": token, "flops_token_squared": token_squared, "flops_patch": patch, "flops_patch_squared": patch_squared}
