# SPDX-License-Identifier: Apache-2.0
"""Policy benchmarks: tasks of lmms-eval, asked of a model or a server, and brought into run folders.

run.py runs lmms-eval in its own Python, which executes inside.py; results.py reads what that wrote; server.py serves a checkpoint.
"""
