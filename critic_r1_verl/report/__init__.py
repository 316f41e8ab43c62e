# SPDX-License-Identifier: Apache-2.0
"""Reports about runs: collect.py gathers the numbers, page.py writes an HTML page, terminal.py prints tables."""
