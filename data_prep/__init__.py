# SPDX-License-Identifier: Apache-2.0
"""Where the training data comes from: one file a corpus, and the build that turns corpora into verl's rows."""
