# SPDX-License-Identifier: Apache-2.0
"""Select one of N sampled answers to a question: methods.py holds the methods, run.py gets the model's verdicts that they need."""
