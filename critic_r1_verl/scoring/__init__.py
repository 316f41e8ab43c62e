# SPDX-License-Identifier: Apache-2.0
"""Lines of a run -> numbers: estimates with intervals, official and strict scores, paired comparisons."""
