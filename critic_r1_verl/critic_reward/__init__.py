# SPDX-License-Identifier: Apache-2.0
"""A critic rewards the rollouts of a policy on questions, without their answers: critic_r1.judge of the recipe critic_reward.

The responses to a question are compared in pairs, each pair in both orders, and a response earns its win in [0, 1]: 1 if every comparison
prefers it, 0 if every one prefers the other response, 0.5 where the two orders disagree, say "tie", or hold no verdict. So a critic that
always says the same pays all responses alike. A response in which no answer can be read is not compared, and wins 0. Equal responses are
not compared either, and no verdict is asked for twice.

A critic that cannot be reached ends the training, and so does one that gives too few verdicts (max_unparsed).
"""
