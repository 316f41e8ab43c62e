# SPDX-License-Identifier: Apache-2.0
"""Loaded by vLLM in every one of its processes (entry point vllm.general_plugins); acts on the CPU alone."""

import multiprocessing
import os
from typing import Any

import wrapt

from critic_r1_verl import cpu


def register() -> None:
    """Let seeds work on the CPU and, inside a verl run, a running engine take new weights from the trainer."""
    if not cpu.requested():
        return
    wrapt.when_imported("vllm.v1.worker.gpu_model_runner")(_rewind_without_offsets)
    # Evaluation loads weights once and keeps vLLM's fast layers.
    if cpu.WEIGHT_SYNC in os.environ:
        _take_new_weights()


def _rewind_without_offsets(runner: Any) -> None:
    """After part of a prompt vLLM sets a seeded request's generator back by an offset, which only a GPU's generator has.

    No text has been drawn for the request by then, so starting its seed anew is the same; only one that was preempted in the middle of its
    text draws another text than undisturbed.
    """
    bookkeeping = runner.GPUModelRunner._bookkeeping_sync

    def bookkeeping_on_the_cpu(self: Any, *arguments: Any, **options: Any) -> Any:
        generators = self.input_batch.generators
        waiting = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0].tolist()
        held = {index: generators.pop(index) for index in waiting if index in generators}
        try:
            return bookkeeping(self, *arguments, **options)
        finally:
            generators.update({index: generator.manual_seed(generator.initial_seed()) for index, generator in held.items()})

    runner.GPUModelRunner._bookkeeping_sync = bookkeeping_on_the_cpu


def _take_new_weights() -> None:
    if multiprocessing.parent_process():
        # This is vLLM's engine, still without threads; it would spawn its one worker, half a minute of the same imports again.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    import vllm._custom_ops as ops

    # vLLM's CPU linear layers repack their weights and drop the originals, so that a later sync would have nothing to load into.
    ops._supports_onednn = False

    import verl.workers.rollout.vllm_rollout.bucketed_weight_transfer as transfer

    receive = transfer.BucketedWeightReceiver.receive_weights

    def receive_clones(self, on_bucket_received):
        """Hand out copies: a view into the shared segment keeps it open ("cannot close exported pointers exist")."""
        return receive(self, lambda weights, is_last: on_bucket_received([(name, tensor.clone()) for name, tensor in weights], is_last))

    transfer.BucketedWeightReceiver.receive_weights = receive_clones
