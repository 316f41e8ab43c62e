# SPDX-License-Identifier: Apache-2.0
"""How critic_pairs.yaml scores an answer."""

from typing import Any


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    return {"right": float(results[0].endswith(f"\\boxed{{{doc['preferred']}}}"))}
