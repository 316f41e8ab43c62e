# SPDX-License-Identifier: Apache-2.0
"""`python -m data_prep build ...`: the same commands as `critic-r1 data`."""

import sys

from data_prep.cli import main

if __name__ == "__main__":
    sys.exit(main())
