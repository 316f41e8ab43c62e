# SPDX-License-Identifier: Apache-2.0
"""Engines run a model on requests. base.py defines the interface, the other modules implement it."""
