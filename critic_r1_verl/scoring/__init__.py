# SPDX-License-Identifier: Apache-2.0
"""Computes the numbers of a run from its lines: estimates with intervals, official and strict scores, paired comparisons."""
