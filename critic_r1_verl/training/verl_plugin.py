# SPDX-License-Identifier: Apache-2.0
"""The entry point verl.plugins: verl imports this module in every process that imports verl.

It registers the resolver of the experiment's name and the patches of verl, starts the supervisor in the driver of a training, and turns the
CPU backend on where it was asked for. In the other processes of a training on GPUs it does no more than register, so it stays light.

verl logs an exception of a plugin at DEBUG and goes on, so that a failure would show up much later and elsewhere. Whatever goes wrong here
therefore ends the process with a message.
"""

import sys

from critic_r1_verl import cpu
from critic_r1_verl.training import experiment, patches

MAIN_PPO = "verl.trainer.main_ppo"


def load(command: list[str]) -> None:
    """What importing this module does, in a process that was started with this command."""
    experiment.register()
    patches.install()
    # The process that the user or our launcher started. Ray's workers run other commands.
    is_driver = MAIN_PPO in command
    if cpu.requested():
        from critic_r1_verl.cpu import patches as cpu_patches

        cpu_patches.install()
        if is_driver:
            cpu_patches.set_environment()
    if is_driver:
        from critic_r1_verl import supervise

        # Does nothing where our launcher has started a supervisor already.
        supervise.attach(training=True)


try:
    load(sys.orig_argv)
except Exception as error:
    raise SystemExit(f"critic-r1: the training cannot start: {error}") from error
