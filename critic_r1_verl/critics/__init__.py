# SPDX-License-Identifier: Apache-2.0
"""Critics: how a model is asked to judge, what the right verdict is, and how its text is read. One file for each form of question."""
