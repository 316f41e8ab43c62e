# SPDX-License-Identifier: Apache-2.0
"""Critics define how a model is asked to judge, which verdict is correct, and how its output is parsed. One module per kind of task."""
