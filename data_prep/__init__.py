# SPDX-License-Identifier: Apache-2.0
"""Training data: one converter module for each corpus, and the build that turns raw rows into the rows that verl reads."""
