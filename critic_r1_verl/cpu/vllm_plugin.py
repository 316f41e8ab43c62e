# SPDX-License-Identifier: Apache-2.0
"""Loaded by vLLM in every one of its processes (entry point vllm.general_plugins); acts on the CPU, and only inside a verl run."""

import multiprocessing
import os

from critic_r1_verl import cpu


def register() -> None:
    """Let a running vLLM CPU engine take new weights from verl's trainer. Evaluation loads weights once and keeps vLLM's fast layers."""
    if not cpu.requested() or cpu.WEIGHT_SYNC not in os.environ:
        return
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
