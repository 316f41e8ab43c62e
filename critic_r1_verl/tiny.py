# SPDX-License-Identifier: Apache-2.0
"""The small base: a Qwen2.5-VL of 2.5 million parameters with its own tokenizer, built and taught on one CPU in minutes.

It is a real Hugging Face folder (config, weights, tokenizer, processor, chat template): verl, vLLM and transformers load it like any other.
`build` writes an untaught one; `teach` lets it imitate lessons, a JSONL file of {skill, image, prompt, response}.

Shapes: B lessons a batch, L tokens, P image patches of 14 x 14 pixels.
"""

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
PAD, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = SPECIAL_TOKENS

# A frequent number, word with the space before it, tag or box's opening becomes one token; bytes make every other text possible.
PRE_TOKENS = r"</?think>|\\boxed\{| ?\d+| ?\w+|\n|[^\w\s]| +"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Widths and depths; heads are 64 wide in the language model and 32 in the vision tower, which vLLM's CPU kernels support."""

    hidden: int = 192
    layers: int = 4
    vision_hidden: int = 96
    vision_layers: int = 2
    vocabulary: int = 640


@dataclass(frozen=True)
class Teaching:
    """How the base is taught: each lesson once, in `steps` batches with the same share of each skill; Muon on matrices, AdamW on the rest.

    Learning rates are constant after warm_up steps and fall linearly over the last share `decay` of all steps.
    """

    steps: int = 300
    muon_lr: float = 3e-3
    adam_lr: float = 2e-3
    warm_up: int = 30
    decay: float = 0.3
    seed: int = 0


def build(texts: Iterable[str], out: Path, size: Size = Size(), seed: int = 0) -> None:
    """Write an untaught model, and a tokenizer trained on texts, to the folder out."""
    import torch
    from transformers import (
        GenerationConfig,
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    torch.manual_seed(seed)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_train_tokenizer(texts, size.vocabulary),
        pad_token=PAD,
        eos_token=IM_END,
        bos_token=None,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    heads, part = size.hidden // 64, 64 // 6
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": size.hidden,
            "intermediate_size": 3 * size.hidden,
            "num_hidden_layers": size.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [32 - 2 * part, part, part]},
            "bos_token_id": None,
            "eos_token_id": ids[IM_END],
            "pad_token_id": ids[PAD],
        },
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.vision_hidden,
            "intermediate_size": 2 * size.vision_hidden,
            "num_heads": size.vision_hidden // 32,
            "out_hidden_size": size.hidden,
            "window_size": 112,
            "fullatt_block_indexes": list(range(size.vision_layers)),
        },
        image_token_id=ids[IMAGE_PAD],
        video_token_id=ids[VIDEO_PAD],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=ids[IM_END], pad_token_id=ids[PAD])
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 448 * 448}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=pixels),
        chat_template=CHAT_TEMPLATE,
    )
    model.save_pretrained(out)
    processor.save_pretrained(out)


def _train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@dataclass(frozen=True)
class Lesson:
    """What the model reads and what it should write, in token ids, and the patches of its picture."""

    prompt: list[int]
    response: list[int]
    picture: int


class Lessons:
    """Lessons by skill, tokenised once; pictures go through the processor once each."""

    def __init__(self, file: Path, base: Path) -> None:
        import torch
        from PIL import Image
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(base, local_files_only=True)
        self.tokenizer = processor.tokenizer
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        names = sorted({row["image"] for row in rows})
        self._pixels, self._grids = [], []
        for start in range(0, len(names), 256):
            images = [Image.open(file.parent / name).convert("RGB") for name in names[start : start + 256]]
            features = processor.image_processor(images=images, return_tensors="pt")
            self._grids += features["image_grid_thw"].tolist()
            self._pixels += list(torch.split(features["pixel_values"], [math.prod(grid) for grid in features["image_grid_thw"].tolist()]))
        index = {name: number for number, name in enumerate(names)}
        self.by_skill: dict[str, list[Lesson]] = {}
        for row in rows:
            lesson = self._encode(row["prompt"], row["response"] + IM_END, index[row["image"]])
            self.by_skill.setdefault(row["skill"], []).append(lesson)

    def _encode(self, prompt: str, response: str, picture: int) -> Lesson:
        content = [{"type": "image"}, {"type": "text", "text": prompt.removeprefix("<image>")}]
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        merged = math.prod(self._grids[picture]) // 4
        ids = self.tokenizer(text.replace(IMAGE_PAD, IMAGE_PAD * merged))["input_ids"]
        return Lesson(ids, self.tokenizer(response)["input_ids"], picture)

    def batch(self, lessons: Sequence[Lesson]) -> tuple[dict[str, Any], Any]:
        """(model inputs, labels): ids and labels int64[B, L], pixel_values float32[P, 1176]; labels are -100 outside responses."""
        import torch

        length = max(len(lesson.prompt) + len(lesson.response) for lesson in lessons)
        ids = torch.full((len(lessons), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(lessons), length), -100)
        mask = torch.zeros((len(lessons), length), dtype=torch.long)
        for row, lesson in enumerate(lessons):
            split, end = len(lesson.prompt), len(lesson.prompt) + len(lesson.response)
            ids[row, :end] = torch.tensor(lesson.prompt + lesson.response)
            labels[row, split:end] = torch.tensor(lesson.response)
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


def teach(
    lessons_file: Path, base: Path, out: Path, teaching: Teaching = Teaching(), on_step: Callable[[int, float], None] | None = None
) -> None:
    """Teach the model in base by imitation of the lessons and write it to out; repeatable on the same machine."""
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(teaching.seed)
    # bfloat16 products where the processor has them: a third less time.
    torch.set_float32_matmul_precision("medium")
    rng = random.Random(teaching.seed)
    lessons = Lessons(lessons_file, base)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True)
    optimisers = _optimisers(model, teaching)
    rates = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    shares = {skill: max(1, len(rows) // teaching.steps) for skill, rows in lessons.by_skill.items()}
    order = {skill: _epochs(rng, len(rows)) for skill, rows in lessons.by_skill.items()}
    model.train()
    for step in range(teaching.steps):
        factor = min(1.0, (step + 1) / teaching.warm_up, (1 - step / teaching.steps) / teaching.decay)
        for group, rate in zip([group for optimiser in optimisers for group in optimiser.param_groups], rates, strict=True):
            group["lr"] = rate * factor
        total = 0.0
        for skill, rows in lessons.by_skill.items():
            inputs, labels = lessons.batch([rows[next(order[skill])] for _ in range(shares[skill])])
            hidden = model.model(**inputs).last_hidden_state[:, :-1]
            taught = labels[:, 1:] != -100
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[taught]), labels[:, 1:][taught])
            loss.backward()
            total += loss.item() / len(lessons.by_skill)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        if on_step:
            on_step(step + 1, total)
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
    """Endless indices below count, reshuffled each time around."""
    while True:
        order = list(range(count))
        rng.shuffle(order)
        yield from order
