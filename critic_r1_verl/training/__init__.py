# SPDX-License-Identifier: Apache-2.0
"""Around verl's training: compose its configuration, check it, launch it, export what it saved."""
