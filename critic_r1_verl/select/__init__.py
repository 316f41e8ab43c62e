# SPDX-License-Identifier: Apache-2.0
"""N sampled answers to a question -> one: methods.py says how, run.py asks the model where a method needs its verdicts."""
