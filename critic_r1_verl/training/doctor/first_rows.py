# SPDX-License-Identifier: Apache-2.0
"""What the model will see of the first training rows, and what their own answers earn.

The rows go through the dataset class, chat template, processor and reward of the composed configuration, as verl loads them. That imports
verl, so it is done in a process of its own, which takes some ten seconds.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl.training.compose import compose
from critic_r1_verl.training.doctor.base import base_folder
from critic_r1_verl.training.doctor.finding import Case, Finding

NUM_ROWS = 3
SECONDS = 300
# verl and its libraries print too.
_MARK = "first rows: "
_PROGRAM = "from critic_r1_verl.training.doctor import first_rows; first_rows.tell()"
_SHOWN = 160


def check_first_rows(case: Case) -> Iterator[Finding]:
    """What the first rows become, for a base that is here."""
    if not base_folder(str(case.config.actor_rollout_ref.model.path)):
        return
    command = [sys.executable, "-c", _PROGRAM, case.recipe, *case.overrides]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        yield Finding("warning", f"the first rows were not read within {SECONDS} s", "see whether the disk of the data is slow")
        return
    told = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if told:
        yield from judge(json.loads(told[-1]), case.config)
    else:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding("fatal", f"the first rows cannot be read as verl reads them: {last:.500}", "correct the key or the row that it names")


def judge(rows: list[dict[str, Any]], config: Any) -> Iterator[Finding]:
    """The findings of what look() returned."""
    limit, sound = config.data.max_prompt_length, True
    again = "build the data again with `make prep`"
    for number, row in enumerate(rows):
        where = f"training row {number}"
        problems = (
            (
                row["images"] and not row["image_tokens"],
                f"{where}: its {row['images']} image(s) do not reach the model, whose prompt has no image token",
                "leave data.image_key and data.prompt_key to the recipe, and take a base whose processor verl accepts",
            ),
            (
                row["tokens"] > limit,
                f"{where}: {row['tokens']} tokens, more than data.max_prompt_length={limit}",
                f"add data.max_prompt_length={row['tokens']} or more, or build the data with that limit (--max-prompt-tokens)",
            ),
            (
                not row["right"],
                f"{where}: its own answer {row['answer']!r} is not right for the reward, which pays {row['score']:g}",
                again,
            ),
        )
        for wrong, what, remedy in problems:
            if wrong:
                sound = False
                yield Finding("fatal", what, remedy)
    if sound and rows:
        row = rows[0]
        seen = f", {row['image_tokens']} of them of {row['images']} image(s) ({', '.join(row['sizes'])})" if row["images"] else ""
        text = " ".join(row["text"].split())
        yield Finding(
            "ok",
            f"the model will see of row 0 {row['tokens']} tokens{seen}, and earn {row['score']:g} for {row['answer']!r}: "
            f"{text[:_SHOWN]} ... {text[-_SHOWN:]}",
        )


def tell() -> None:
    """In the process of its own: print what the first rows become."""
    foreign.say(_MARK + json.dumps(look(sys.argv[1], sys.argv[2:])))


def look(recipe: str, overrides: list[str]) -> list[dict[str, Any]]:
    """Of each of the first rows: tokens, image_tokens, images, sizes ("width x height"), text, answer, and its score, and if it is right.

    The sizes are those that the model gets; score and right are what the reward gives the row's own answer.
    """
    import asyncio

    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import get_custom_reward_fn
    from verl.trainer.ppo.utils import create_rl_dataset
    from verl.utils.config import omega_conf_to_dataclass

    config = compose(recipe, overrides)
    OmegaConf.resolve(config)
    model, reward = omega_conf_to_dataclass(config.actor_rollout_ref.model), get_custom_reward_fn(config)
    processor, found = model.processor, []
    dataset = create_rl_dataset(config.data.train_files, config.data, model.tokenizer, processor)
    for number in range(min(NUM_ROWS, len(dataset))):
        images = len(dataset.dataframe[number].get("images") or ())
        row = dataset[number]
        # As AgentLoopBase of verl 0.9.1 does it, experimental/agent_loop/agent_loop.py.
        patch = processor.image_processor.patch_size
        pictures, _ = asyncio.run(dataset.process_vision_info(row["raw_prompt"], image_patch_size=patch, config=config.data))
        prompt = processor.apply_chat_template(
            row["raw_prompt"], add_generation_prompt=True, tokenize=False, **config.data.apply_chat_template_kwargs
        )
        ids = list(processor(text=[prompt], images=pictures or None)["input_ids"][0])
        answer = row["reward_model"]["ground_truth"]
        thought = "" if config.critic_r1.thought_opened else "<think>"
        scored = reward(
            data_source=row["data_source"],
            solution_str=f"{thought}checked</think> \\boxed{{{answer}}}",
            ground_truth=answer,
            extra_info=row["extra_info"],
        )
        parts = scored if isinstance(scored, dict) else {"score": scored}
        found.append(
            {
                "tokens": len(ids),
                "image_tokens": ids.count(processor.image_token_id),
                "images": images,
                "sizes": [f"{picture.width} x {picture.height}" for picture in pictures or ()],
                "text": prompt,
                "answer": answer,
                "score": parts["score"],
                # The score alone depends on the weights of the recipe.
                "right": bool(parts.get("acc", parts["score"] > 0)),
            }
        )
    return found
