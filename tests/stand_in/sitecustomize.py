# SPDX-License-Identifier: Apache-2.0
"""Python runs this at the start of every process whose PYTHONPATH holds this folder: flash-attn counts as usable without a GPU."""

import wrapt


def _usable(import_utils) -> None:
    import_utils.is_flash_attn_2_available = lambda: True


def _usable_on_a_cpu(modeling) -> None:
    modeling.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2]["supported_devices"] += ((lambda: True, "cpu"),)


wrapt.when_imported("transformers.utils.import_utils")(_usable)
wrapt.when_imported("transformers.modeling_flash_attention_utils")(_usable_on_a_cpu)
