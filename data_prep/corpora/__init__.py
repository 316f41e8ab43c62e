# SPDX-License-Identifier: Apache-2.0
"""The public corpora, the user's own pairs and the embedded digits: one module each, imported only when asked for by its name."""

MODULES = {
    name: f"data_prep.corpora.{name}"
    for name in (
        "digits",
        "llava_critic_113k",
        "llava_critic_grpo",
        "llava_rlhf",
        "mm_rlhf",
        "mmpr",
        "pairs",
        "povid",
        "r1_reward_rl",
        "rlaif_v",
        "rlhf_v",
        "vlfeedback",
        "wildvision",
        "geometry3k",
        "mmk12",
        "thinklite_hard",
        "virl39k",
    )
}
