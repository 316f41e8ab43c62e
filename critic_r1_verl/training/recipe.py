# SPDX-License-Identifier: Apache-2.0
"""What the recipe says about the data, so that a build fits the training without a flag."""

from dataclasses import dataclass
from typing import Any

from critic_r1_verl._paths import hydra_root


@dataclass(frozen=True, slots=True)
class Recipe:
    """The model whose tokenizer and processor measure, the longest prompt in tokens, and the limits (least, most) of an image's pixels."""

    model: str
    max_prompt_tokens: int
    pixels: tuple[int, int]


def read(base: str | None = None) -> Recipe:
    """The recipe with a base of recipe/base, by default its own; any other base is a model, and the recipe's values hold for it."""
    import yaml

    folder = hydra_root() / "recipe"

    def content(name: str) -> dict[str, Any]:
        return yaml.safe_load((folder / name).read_text(encoding="utf-8"))

    method = content("critic_r1.yaml")
    base = base or next(entry["base"] for entry in method["defaults"] if "base" in entry)
    own = content(f"base/{base}.yaml") if "/" not in base and (folder / "base" / f"{base}.yaml").is_file() else {}
    ours = {**method["critic_r1"], **own.get("critic_r1", {})}
    return Recipe(
        model=own["actor_rollout_ref"]["model"]["path"] if own else base,
        max_prompt_tokens={**method["data"], **own.get("data", {})}["max_prompt_length"],
        pixels=(ours["min_pixels"], ours["max_pixels"]),
    )
