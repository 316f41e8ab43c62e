# SPDX-License-Identifier: Apache-2.0
"""Merges the adapters of a LoRA checkpoint into the weights of its base, and checks the folder that was written.

verl saves a PEFT model as it stands: base_model.model.X.base_layer.weight [out, in], X.lora_A.default.weight [rank, in] and
X.lora_B.default.weight [out, rank] for each adapted layer X, and beside the shards lora_train_meta.json with rank and alpha. The trained
layer multiplies by base + alpha / rank * B A.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

META = "lora_train_meta.json"

_PREFIX = "base_model.model."
_PART = re.compile(r"(?P<layer>.+)\.lora_(?P<part>[AB])\.default\.weight")


class Adapter(NamedTuple):
    """The tensors of one adapted layer: its base weight [out, in], and change = alpha / rank * B A, [out, in] in float32."""

    base: Any
    a: Any
    b: Any
    scale: float

    def change(self) -> Any:
        return self.scale * (self.b.float() @ self.a.float())


Adapters = dict[str, Adapter]
"""By the name of the weight in the model."""


def merge(state: dict[str, Any], actor: Path) -> Adapters:
    """Replace, in place, the tensors of a PEFT model by those of the merged model under their own names, and return its adapters.

    state: name -> tensor, of a whole checkpoint; one without adapters is left as it is, and the result is empty. actor: the folder of the
    checkpoint. A sum is computed in float32 and rounded once, to the type of the base weight. ValueError for adapters of another kind than
    verl makes, for missing base weights, and for adapters that were never moved.
    """
    names = [name for name in state if "lora_" in name]
    if not names:
        return {}
    scale = _scale(actor)
    parts: dict[str, dict[str, Any]] = {}
    for name in names:
        found = _PART.fullmatch(name)
        if found is None:
            raise ValueError(
                f"{actor}: {name} is no LoRA matrix of a linear layer, and nothing else can be merged; merge it by peft itself"
            )
        parts.setdefault(found["layer"], {})[found["part"]] = state.pop(name)
    adapters = {}
    for layer, matrices in parts.items():
        base = state.get(f"{layer}.base_layer.weight")
        if base is None or matrices.keys() != {"A", "B"}:
            raise ValueError(
                f"{actor}: {layer} lacks its base weight or one of its two LoRA matrices, so it cannot be merged; a checkpoint with base "
                "weights is saved by actor_rollout_ref.actor.checkpoint.save_lora_only=false"
            )
        adapters[_name(f"{layer}.weight")] = adapter = Adapter(base, matrices["A"], matrices["B"], scale)
        state[f"{layer}.base_layer.weight"] = (base.float() + adapter.change()).to(base.dtype)
    if not any(adapter.b.any() for adapter in adapters.values()):
        raise ValueError(
            f"{actor}: all {len(adapters)} lora_B matrices are zero, so the model is still its base; train longer or with a higher "
            "actor_rollout_ref.actor.optim.lr (1e-5 to 3e-5 for a 7B model)"
        )
    for name in list(state):
        state[_name(name)] = state.pop(name)
    return adapters


def check(adapters: Adapters, weights: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError unless weights, read back from the folder that was written, are those of the trained model and not its base's.

    Each adapted weight must equal base + alpha / rank * B A to within the rounding of its type, and some weight must differ from its base.
    Does nothing without adapters.
    """
    changed = False
    for name, adapter in adapters.items():
        weight = weights[name]
        # bfloat16 has 8 significant bits.
        if not weight.float().allclose(adapter.base.float() + adapter.change(), rtol=2**-8, atol=2**-30):
            raise ValueError(f"{folder}: {name} is not the base with its adapter merged, so this export must not be used; export again")
        changed = changed or not weight.equal(adapter.base.to(weight.dtype))
    if adapters and not changed:
        raise ValueError(
            f"{folder}: every merged weight is that of the base: the adapters are so small that rounding loses them; train longer or with "
            "a higher actor_rollout_ref.actor.optim.lr"
        )


def _scale(actor: Path) -> float:
    try:
        meta = json.loads((actor / META).read_text(encoding="utf-8"))
        rank, alpha = int(meta["r"]), float(meta["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{actor / META}: no rank and alpha of the adapters can be read ({error}); export a checkpoint that has them"
        ) from error
    if rank <= 0 or alpha <= 0:
        raise ValueError(f"{actor / META}: r={rank} and lora_alpha={alpha:g} are not both above 0; write those of the training")
    return alpha / rank


def _name(name: str) -> str:
    return re.sub(r"\.base_layer\.(weight|bias)$", r".\1", name.removeprefix(_PREFIX))
