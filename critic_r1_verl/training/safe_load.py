# SPDX-License-Identifier: Apache-2.0
"""Reads checkpoints of verl without running code that they may hold.

A .pt file is a pickle, which can run any code when it is read, and verl reads its own with weights_only=False. In torch's safe form only
classes that are known can be made, and those of verl's FSDP checkpoints are few. What else a folder holds is not checked: a checkpoint of
somebody else is to be trusted like a program.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

FORCE, FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""torch's own switches; they outweigh weights_only=False of the caller."""


@contextlib.contextmanager
def safe_loading(what: str) -> Iterator[None]:
    """Within the block, torch.load makes only tensors and the other classes of verl's checkpoints. ValueError says what it refused.

    Only within it, because the processes of a run read messages to each other by torch.load too. A user's own setting of the switch, or
    of TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1, which reads the file as verl would, is kept.
    """
    import pickle

    import torch

    torch.serialization.add_safe_globals(_known())
    switched = FORCE not in os.environ and os.environ.get(FORBID, "0") == "0"
    if switched:
        os.environ[FORCE] = "1"
    try:
        yield
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{what}: holds something else than weights ({reason:.200}); if you trust who made it as you would trust a program, "
            f"set {FORBID}=1"
        ) from error
    finally:
        if switched:
            os.environ.pop(FORCE, None)


def _known() -> list[Any]:
    """The classes in FSDP2 checkpoints of verl 0.9.1 with torch 2.11, as get_unsafe_globals_in_checkpoint of torch lists them."""
    import numpy
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, _dtensor_spec
    from torch.distributed.tensor.placement_types import Replicate, Shard

    spec = [_dtensor_spec.DTensorSpec, _dtensor_spec.TensorMeta, _dtensor_spec.ShardOrderEntry]
    # The state of numpy's generator is an array of integers; the third is the function that makes one.
    numbers = [numpy.ndarray, numpy.dtype, numpy.empty(0).__reduce__()[0], type(numpy.dtype("uint32"))]
    return [DTensor, DeviceMesh, Shard, Replicate, *spec, *numbers]
