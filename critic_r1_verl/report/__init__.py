# SPDX-License-Identifier: Apache-2.0
"""Runs -> what people read: collect.py gathers the numbers and the files, page.py draws one HTML page, terminal.py prints tables."""
