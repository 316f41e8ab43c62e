# SPDX-License-Identifier: Apache-2.0
"""LLaVA-Critic-R1 as a verl recipe: trains one model on preference pairs to be both critic and policy."""

__version__ = "0.1.0"
