# SPDX-License-Identifier: Apache-2.0
"""Studies: what each change to the recipe does, over several seeds, beside the recipe as it is.

A study is a file of recipe/study. run.py trains and measures it, once for each seed; table.py computes the numbers of all that have run.
"""
