# SPDX-License-Identifier: Apache-2.0
"""Engines: what answers requests with a model. base.py defines the seam, the other modules implement it."""
