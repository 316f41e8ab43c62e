# SPDX-License-Identifier: Apache-2.0
"""Faults of verl 0.9.1 that are mended in memory, on every device. What only the CPU needs is in critic_r1_verl/cpu.

Each patch waits until a process of verl imports the module that it mends, so most processes pay nothing for it. docs/upstream.md describes
each fault as it can be offered to verl, with a change of verl's own source; a release that has the change takes the patch out of here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from critic_r1_verl import foreign

VERL = "0.9.1"
"""The release that the patches were written for. On another one none is applied, and a line on stderr says so."""


def install() -> None:
    """Have each patch applied when this process imports the module that it mends."""
    from wrapt import register_post_import_hook

    for patch, module in PATCHES:
        register_post_import_hook(_on_the_release(patch), module)


def _on_the_release(patch: Callable[[Any], None]) -> Callable[[Any], None]:
    def apply(module: Any) -> None:
        from importlib.metadata import version

        if (found := version("verl")) == VERL:
            patch(module)
        else:
            foreign.say(f"critic-r1: verl {found} is not {VERL}: left as it is, without {patch.__name__}", stderr=True)

    return apply


def accept_batches_without_an_image(module: Any) -> None:
    """Let a micro-batch in which no row has an image pass through Qwen2-VL and Qwen2.5-VL.

    Such a batch sends a blank image through the vision tower, so that all ranks take part in its collectives and each of its weights has a
    gradient, which is zero. There verl takes the tower's output for a tensor; since transformers 5.0 it is an object that holds one. So
    the rank with the batch raises, and the other ranks wait for it. Batches with images go through verl's own code.
    """
    embed = module._get_input_embeds

    def embed_with_or_without_images(
        model: Any, input_ids: Any, attention_mask: Any = None, pixel_values: Any = None, pixel_values_videos: Any = None, *grids: Any
    ) -> tuple[Any, Any]:
        if pixel_values is not None or pixel_values_videos is not None:
            return embed(model, input_ids, attention_mask, pixel_values, pixel_values_videos, *grids)
        embeddings = model.get_input_embeddings()(input_ids)
        vision = model.config.vision_config
        rows, columns = 4, 4
        blank = embeddings.new_zeros(rows * columns, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
        seen, _ = module.unpack_visual_output(model.visual(blank, grid_thw=input_ids.new_tensor([[1, rows, columns]])))
        return embeddings + 0.0 * seen.mean(), attention_mask

    module._get_input_embeds = embed_with_or_without_images


def keep_rotary_frequencies(module: Any) -> None:
    """Keep the frequencies of the rotary embedding in single precision where a model is loaded in half precision.

    verl casts the whole model to fsdp_config.model_dtype, frequencies included; transformers loads and needs them in single precision.
    Their rounding, one part in 512, grows with the position: at token 6,000 the second frequency of Qwen2.5-VL is off by seven radians.
    This hits the reference where it is held in bfloat16, and the actor itself with LoRA; the rollout has them exact.
    """
    patch_model, build_module = module.apply_monkey_patch, module.FSDPEngine._build_module
    exact: list[tuple[Any, str, Any]] = []

    def patch_and_note(model: Any, *arguments: Any, **options: Any) -> None:
        patch_model(model, *arguments, **options)
        # This is the last call before the cast.
        exact[:] = [
            (part, name, buffer)
            for part in model.modules()
            for name, buffer in part.named_buffers(recurse=False)
            if name in ("inv_freq", "original_inv_freq")
        ]

    def build_with_exact_frequencies(self: Any) -> Any:
        model = build_module(self)
        for part, name, buffer in exact:
            part.register_buffer(name, buffer, persistent=False)
        exact.clear()
        return model

    module.apply_monkey_patch, module.FSDPEngine._build_module = patch_and_note, build_with_exact_frequencies


def make_folders_without_lock_files(module: Any) -> None:
    """Make the folder of a checkpoint without a lock.

    verl names a lock file in the temporary folder after Python's hash of the path, which is another one in each process: it locks nothing,
    and each save leaves files behind. os.makedirs is safe where several processes make one folder.
    """
    import os

    def local_mkdir_safe(path: str) -> str:
        path = os.path.join(os.getcwd(), path)
        os.makedirs(path, exist_ok=True)
        return path

    module.local_mkdir_safe = local_mkdir_safe


def load_checkpoints_safely(module: Any) -> None:
    """Have a resumed run read its checkpoint without running code from it, although verl asks for weights_only=False."""
    from critic_r1_verl.training.safe_load import safe_loading

    load = module.FSDPCheckpointManager.load_checkpoint

    def load_safely(self: Any, local_path: str, *arguments: Any, **options: Any) -> Any:
        with safe_loading(local_path):
            return load(self, local_path, *arguments, **options)

    module.FSDPCheckpointManager.load_checkpoint = load_safely


def load_the_place_in_the_data_safely(module: Any) -> None:
    """The same for the file in which the trainer keeps its place in the training data."""
    from critic_r1_verl.training.safe_load import safe_loading

    load = module.PPOTrainer._load_checkpoint

    def load_safely(self: Any) -> None:
        with safe_loading(str(self.config.trainer.default_local_dir)):
            load(self)

    module.PPOTrainer._load_checkpoint = load_safely


def rotate_after_a_resume(module: Any) -> None:
    """Let a resumed training remove the checkpoints that it saved before it was interrupted, as trainer.max_actor_ckpt_to_keep says.

    verl keeps the list of what it saved in memory only. Before its first save the list is read from the folder that this run writes to:
    the earlier steps there, and no checkpoint of another folder, from which a run may be resumed too.
    """
    save = module.FSDPCheckpointManager.save_checkpoint

    def save_and_rotate(self: Any, local_path: str | None, *arguments: Any, **options: Any) -> Any:
        if local_path is not None and not self.previous_saved_paths:
            self.previous_saved_paths = _earlier_steps(Path(local_path))
        return save(self, local_path, *arguments, **options)

    module.FSDPCheckpointManager.save_checkpoint = save_and_rotate


def _earlier_steps(folder: Path) -> list[str]:
    """The folders of the same name, as actor, in global_step_N of each step N before that of this one, in order."""

    def number(step: Path) -> int:
        digits = step.name.removeprefix("global_step_")
        return int(digits) if digits.isdecimal() else -1

    saved = sorted((step for step in folder.parent.parent.glob("global_step_*") if number(step) >= 0), key=number)
    return [str(step / folder.name) for step in saved if number(step) < number(folder.parent) and (step / folder.name).is_dir()]


def divide_position_ids_of_equal_length(module: Any) -> None:
    """Keep the rows of three-dimensional position ids apart where all rows of a batch have the same number of tokens.

    The queue joins such rows, each (3 or 4, tokens), along their first dimension, because no dimension differs between them. verl then
    declares the second to be the one that differs, and the next selection of rows fails. They are joined again along the second.
    """
    fix = module.maybe_fix_3d_position_ids

    def divide_and_fix(data: Any) -> None:
        ids = data.get("position_ids", None)
        if ids is not None and ids.is_nested and ids.dim() == 3:
            values, offsets = ids.values(), ids.offsets()
            if int(offsets[-1]) == len(values):
                rows = list(values.split(offsets.diff().tolist()))
                data["position_ids"] = module.nested_tensor_from_tensor_list(rows, ragged_idx=2)
        fix(data)

    module.maybe_fix_3d_position_ids = divide_and_fix


PATCHES = (
    (divide_position_ids_of_equal_length, "verl.utils.tensordict_utils"),
    (load_checkpoints_safely, "verl.utils.checkpoint.fsdp_checkpoint_manager"),
    (load_the_place_in_the_data_safely, "verl.trainer.ppo.v1.trainer_base"),
    (make_folders_without_lock_files, "verl.utils.fs"),
    (accept_batches_without_an_image, "verl.models.transformers.qwen2_vl"),
    (keep_rotary_frequencies, "verl.workers.engine.fsdp.transformer_impl"),
    (rotate_after_a_resume, "verl.utils.checkpoint.fsdp_checkpoint_manager"),
)
