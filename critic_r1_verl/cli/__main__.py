# SPDX-License-Identifier: Apache-2.0
"""`python -m critic_r1_verl.cli` is `critic-r1`."""

import sys

from critic_r1_verl.cli import main

sys.exit(main())
