# SPDX-License-Identifier: Apache-2.0
"""Trains the small base by imitation, on a CPU in minutes.

    python examples/digits/teach.py --lessons runs/demo/world/lessons.jsonl --out runs/demo/base

The lessons are a JSONL file of {kind, image, prompt, response}, written by world.py.
Shapes: B lessons in a batch, L tokens, P image patches of 14 x 14 pixels.
"""

import argparse
import json
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from base import IM_END, IMAGE_PAD, build

from critic_r1_verl import foreign


@dataclass(frozen=True)
class Teaching:
    """How the base is trained: on each lesson once, in `steps` batches of the same mixture; by Muon for matrices and AdamW for the rest.

    The learning rates rise linearly over warm_up steps, then are constant, and fall linearly over the last share `decay` of all steps.
    """

    steps: int = 300
    muon_lr: float = 3e-3
    adam_lr: float = 2e-3
    warm_up: int = 30
    decay: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Lesson:
    """The token ids of a prompt and of the response to learn, and the index of the picture."""

    prompt: list[int]
    response: list[int]
    picture: int


class Lessons:
    """The tokenised lessons by kind; each picture is processed once."""

    def __init__(self, file: Path, base: Path) -> None:
        import torch
        from PIL import Image
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(base, local_files_only=True)
        self.tokenizer = processor.tokenizer
        rows = read_lessons(file)
        names = sorted({row["image"] for row in rows})
        self._pixels, self._grids = [], []
        for start in range(0, len(names), 256):
            images = [Image.open(file.parent / name).convert("RGB") for name in names[start : start + 256]]
            features = processor.image_processor(images=images, return_tensors="pt")
            self._grids += features["image_grid_thw"].tolist()
            self._pixels += list(torch.split(features["pixel_values"], [math.prod(grid) for grid in features["image_grid_thw"].tolist()]))
        index = {name: number for number, name in enumerate(names)}
        self.by_kind: dict[str, list[Lesson]] = {}
        for row in rows:
            lesson = self._encode(row["prompt"], row["response"] + IM_END, index[row["image"]])
            self.by_kind.setdefault(row["kind"], []).append(lesson)

    def _encode(self, prompt: str, response: str, picture: int) -> Lesson:
        content = [{"type": "image"}, {"type": "text", "text": prompt.removeprefix("<image>")}]
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        num_image_tokens = math.prod(self._grids[picture]) // 4
        ids = self.tokenizer(text.replace(IMAGE_PAD, IMAGE_PAD * num_image_tokens))["input_ids"]
        return Lesson(ids, self.tokenizer(response)["input_ids"], picture)

    def batch(self, lessons: Sequence[Lesson]) -> tuple[dict[str, Any], Any]:
        """(model inputs, labels): ids and labels int64[B, L], pixel_values float32[P, 1176]; labels are -100 outside responses."""
        import torch

        length = max(len(lesson.prompt) + len(lesson.response) for lesson in lessons)
        ids = torch.full((len(lessons), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(lessons), length), -100)
        mask = torch.zeros((len(lessons), length), dtype=torch.long)
        for row, lesson in enumerate(lessons):
            start, end = len(lesson.prompt), len(lesson.prompt) + len(lesson.response)
            ids[row, :end] = torch.tensor(lesson.prompt + lesson.response)
            labels[row, start:end] = torch.tensor(lesson.response)
            mask[row, :end] = 1
        image_id = self.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == image_id).int(),
            "pixel_values": torch.cat([self._pixels[lesson.picture] for lesson in lessons]),
            "image_grid_thw": torch.tensor([self._grids[lesson.picture] for lesson in lessons]),
        }
        return inputs, labels


def teach(lessons_file: Path, base: Path, out: Path, teaching: Teaching, on_step: Callable[[int, float], None]) -> None:
    """Train the model in base on the lessons and write it to out, with the same result each time on the same machine.

    on_step: called with the number of finished steps and the mean loss of the last one.
    """
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(teaching.seed)
    # Allow bfloat16 matrix products, which save a third of the time on processors that have them.
    torch.set_float32_matmul_precision("medium")
    rng = random.Random(teaching.seed)
    lessons = Lessons(lessons_file, base)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True)
    optimisers = _optimisers(model, teaching)
    param_groups = [(group, group["lr"]) for optimiser in optimisers for group in optimiser.param_groups]
    batch_sizes = {kind: max(1, len(rows) // teaching.steps) for kind, rows in lessons.by_kind.items()}
    orders = {kind: _epochs(rng, len(rows)) for kind, rows in lessons.by_kind.items()}
    model.train()
    for step in range(teaching.steps):
        factor = min(1.0, (step + 1) / teaching.warm_up, (1 - step / teaching.steps) / teaching.decay)
        for group, rate in param_groups:
            group["lr"] = rate * factor
        mean_loss = 0.0
        for kind, rows in lessons.by_kind.items():
            inputs, labels = lessons.batch([rows[next(orders[kind])] for _ in range(batch_sizes[kind])])
            hidden = model.model(**inputs).last_hidden_state[:, :-1]
            taught = labels[:, 1:] != -100
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[taught]), labels[:, 1:][taught])
            loss.backward()
            mean_loss += loss.item() / len(lessons.by_kind)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        on_step(step + 1, mean_loss)
    model.save_pretrained(out)
    AutoProcessor.from_pretrained(base, local_files_only=True).save_pretrained(out)
    (out / "teaching.json").write_text(json.dumps(asdict(teaching), indent=2) + "\n")


def _optimisers(model: Any, teaching: Teaching) -> list[Any]:
    import torch

    matrices = [value for name, value in model.named_parameters() if value.ndim == 2 and "embed" not in name and "lm_head" not in name]
    matrix_ids = {id(value) for value in matrices}
    others = [value for value in model.parameters() if id(value) not in matrix_ids]
    return [
        torch.optim.Muon(matrices, lr=teaching.muon_lr, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=teaching.adam_lr, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def _epochs(rng: random.Random, count: int) -> Iterator[int]:
    """An endless stream of the indices below count, in a new random order in each epoch."""
    while True:
        order = list(range(count))
        rng.shuffle(order)
        yield from order


def read_lessons(file: Path) -> list[dict[str, str]]:
    """The lessons of a file. ValueError if it is missing, or names the line that is not a lesson."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file; examples/digits/world.py writes it")
    lessons = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            lessons.append({key: row[key] for key in ("kind", "image", "prompt", "response")})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}:{number}: not a lesson ({type(error).__name__}: {error}); draw the world again") from error
    return lessons


def texts_of(lessons: Iterable[dict[str, str]]) -> list[str]:
    """The texts for training the tokenizer: prompts without their image placeholder, and responses."""
    return [text for lesson in lessons for text in (lesson["prompt"].removeprefix("<image>"), lesson["response"])]


def main() -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lessons", type=Path, required=True, metavar="FILE", help="lessons.jsonl of world.py")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write, a Hugging Face model")
    arguments = parser.parse_args()
    try:
        lessons = read_lessons(arguments.lessons)
    except ValueError as error:
        raise SystemExit(f"critic-r1: {error}") from error
    teaching = Teaching()
    columns = (
        "teaching",
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        foreign.column("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
    )
    with tempfile.TemporaryDirectory() as untaught, Progress(*columns, console=foreign.console(stderr=True)) as progress:
        build(texts_of(lessons), Path(untaught))
        task = progress.add_task("teaching", total=teaching.steps, loss=float("nan"))

        def show(step: int, loss: float) -> None:
            progress.update(task, completed=step, loss=loss)

        teach(arguments.lessons, Path(untaught), arguments.out, teaching, show)
    foreign.say(f"small base: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
