# SPDX-License-Identifier: Apache-2.0
"""LLaVA-Critic-R1 as a verl recipe: preference pairs in, a model that is critic and policy at once out."""

__version__ = "0.1.0"
