# SPDX-License-Identifier: Apache-2.0
"""Loaded by vLLM in each of its processes (entry point vllm.general_plugins). It does nothing unless the CPU backend was requested."""

import multiprocessing
import os
from typing import Any

import wrapt

from critic_r1_verl import cpu
from critic_r1_verl.cpu import loopback


def register() -> None:
    """Make seeds work on the CPU and, in a verl training, make the running engine receive new weights from the trainer."""
    if not cpu.requested():
        return
    loopback.install()
    wrapt.when_imported("vllm.v1.worker.gpu_model_runner")(_restart_seeds)
    # Without weight sync, as in evaluation, vLLM keeps its fast linear layers.
    if cpu.WEIGHT_SYNC in os.environ:
        _receive_new_weights()


def _restart_seeds(runner: Any) -> None:
    """After a part of a prompt vLLM resets the generator of a seeded request by an offset, which only GPUs have. Use the seed instead.

    Usually no token has been sampled by then, so both have the same effect. The exception is a request that was preempted after its first
    token: its text differs from the one that it would get without preemption.
    """
    bookkeeping = runner.GPUModelRunner._bookkeeping_sync

    def bookkeeping_on_the_cpu(self: Any, *args: Any, **kwargs: Any) -> Any:
        generators = self.input_batch.generators
        waiting = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0].tolist()
        held = {index: generators.pop(index) for index in waiting if index in generators}
        try:
            return bookkeeping(self, *args, **kwargs)
        finally:
            generators.update({index: generator.manual_seed(generator.initial_seed()) for index, generator in held.items()})

    runner.GPUModelRunner._bookkeeping_sync = bookkeeping_on_the_cpu


def _receive_new_weights() -> None:
    if multiprocessing.parent_process():
        # This is vLLM's engine process, which has no threads yet. Spawning its worker would repeat half a minute of imports.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    import vllm._custom_ops as ops

    # vLLM's oneDNN layers repack their weights and delete the originals, into which a weight sync has to load.
    ops._supports_onednn = False

    import verl.workers.rollout.vllm_rollout.bucketed_weight_transfer as transfer

    receive = transfer.BucketedWeightReceiver.receive_weights

    def receive_clones(self, on_bucket_received):
        """Pass copies on: a view into the shared segment keeps it open ("cannot close exported pointers exist")."""
        return receive(self, lambda weights, is_last: on_bucket_received([(name, tensor.clone()) for name, tensor in weights], is_last))

    transfer.BucketedWeightReceiver.receive_weights = receive_clones
