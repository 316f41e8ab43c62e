# SPDX-License-Identifier: Apache-2.0
"""Count the tokens of a prompt without running the processor, from the tokens of the text and the sizes of the images.

The count is the same as in verl, where qwen_vl_utils and then the processor resize each image, and each merged patch is one token.
check() compares counts with the output of the processor. The data build does so for a sample and stops if they differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from critic_r1_verl import hub
from critic_r1_verl.files import replacing
from critic_r1_verl.images import Limits, file_bytes, smart_resize
from critic_r1_verl.images import check as check_image

_PROMPT_MARKER = "TEXT-OF-THE-PROMPT"
# qwen_vl_utils 0.0.14, vision_process.py: IMAGE_MIN_TOKEN_NUM and IMAGE_MAX_TOKEN_NUM.
_FETCHED_IMAGE_TOKENS = (4, 16_384)


@dataclass(frozen=True, slots=True)
class Meter:
    """Counts tokens from a tokenizer file, the chat template's text around a prompt and for an image, and the processor's pixel limits."""

    tokenizer_file: str
    before: str
    after: str
    image: str
    limits: Limits

    def tokens(self, content: str, sizes: Sequence[tuple[int, int]]) -> int:
        """The number of tokens of a chat with the single user turn `content`. sizes: (width, height) of the stored file of each <image>."""
        text = self.before + content.replace("<image>", self.image) + self.after
        # encode_batch_fast is faster because it does not compute the offsets of the tokens.
        [encoding] = _tokenizer(self.tokenizer_file).encode_batch_fast([text], add_special_tokens=False)
        return len(encoding) + sum(self.image_tokens(*size) - 1 for size in sizes)

    def image_tokens(self, width: int, height: int) -> int:
        """The number of tokens of an image of this size in pixels: its merged patches after both resizes."""
        factor = self.limits.factor
        least, most = (number * factor**2 for number in _FETCHED_IMAGE_TOKENS)
        fetched = smart_resize(width, height, Limits(least, most, factor))
        processed = smart_resize(*fetched, self.limits)
        return processed[0] * processed[1] // factor**2


def load_processor(base: str) -> Any:
    """The processor of a model folder, or of a hub id, of which only the tokenizer and processor are downloaded.

    ValueError if it has none, or if it cannot be downloaded.
    """
    try:
        folder = hub.fetch(base, "--base", files=hub.PROCESSOR)
    except ValueError as error:
        raise ValueError(f"{error}; or build without measuring lengths by --no-lengths") from error
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"--base {base}: {folder} holds no processor that transformers can load ({error!s:.200})") from error
    if not hasattr(processor, "image_processor") or not getattr(processor.tokenizer, "is_fast", False):
        raise ValueError(f"--base {base}: lengths need an image processor and a fast tokenizer; give another base, or --no-lengths")
    return processor


def meter(processor: Any, work: Path) -> Meter:
    """The Meter of a processor; its tokenizer is written to work/tokenizer.json."""
    file = work / "tokenizer.json"
    with replacing(file) as temporary:
        temporary.write_text(processor.tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    before, after = _render(processor, images=0).split(_PROMPT_MARKER)
    with_image = _render(processor, images=1)
    sizes, factor = processor.image_processor, processor.image_processor.patch_size * processor.image_processor.merge_size
    return Meter(
        tokenizer_file=str(file),
        before=before,
        after=after,
        image=with_image[len(before) : -len(_PROMPT_MARKER + after)],
        limits=Limits(sizes.size["shortest_edge"], sizes.size["longest_edge"], factor),
    )


def check(meter: Meter, processor: Any, rows: Iterable[Mapping[str, Any]], root: Path) -> int:
    """Compare the count of each row with the processor's output, as in verl. Returns the number of rows; ValueError if one differs."""
    from qwen_vl_utils import process_vision_info

    num_rows = 0
    for row in rows:
        files = [root / path for path in row["images"]]
        content = row["prompt"][0]["content"]
        before, *texts = content.split("<image>")
        parts: list[dict[str, str]] = [{"type": "text", "text": before}] if before else []
        for file, text in zip(files, texts, strict=True):
            parts += [{"type": "image", "image": str(file)}] + ([{"type": "text", "text": text}] if text else [])
        messages = [{"role": "user", "content": parts}]
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        images, _ = process_vision_info(messages, image_patch_size=processor.image_processor.patch_size)
        actual = len(processor(text=[prompt], images=images)["input_ids"][0])
        sizes = [check_image(file_bytes(file)).size for file in files]
        if (counted := meter.tokens(content, sizes)) != actual:
            raise ValueError(
                f"{row['extra_info']['pair_id']}: counted {counted} prompt tokens, but the processor gives {actual}: "
                f"{type(processor).__name__} has another rule for sizes; build with --no-lengths and leave room in data.max_prompt_length"
            )
        num_rows += 1
    return num_rows


def _render(processor: Any, images: int) -> str:
    content = [{"type": "image"}] * images + [{"type": "text", "text": _PROMPT_MARKER}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)


@cache
def _tokenizer(file: str) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
