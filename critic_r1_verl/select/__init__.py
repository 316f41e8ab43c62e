# SPDX-License-Identifier: Apache-2.0
"""Select one of N sampled answers to a question.

candidates.py groups equal answers, calls.py is the interface to the judge, methods.py holds the methods, run.py gets the judge's verdicts
and keeps them in a journal, usage.py counts what was spent, sweep.py compares the methods at equal tokens, and diagnosis.py says why
selection gains or loses.
"""
