# SPDX-License-Identifier: Apache-2.0
"""Small random bases in the form of the real ones: class, processor, patch size, merging and the shape of the chat template are the same.

As in the real 7B models the head is not tied to the embeddings, and there are four attention heads over two key-value heads, so that two
tensor-parallel workers can share them. The widths are those that vLLM's CPU kernels support.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
PAD, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = SPECIAL_TOKENS
HEADS, KEY_VALUE_HEADS, HEAD, HIDDEN, VISION_HIDDEN = 4, 2, 64, 256, 64


@dataclass(frozen=True)
class Family:
    """What differs between families: the class, the system turn that the template adds, and what it writes before an answer."""

    model: str
    system: str = ""
    opening: str = ""

    @property
    def patch(self) -> int:
        return 16 if self.model == "qwen3_vl" else 14


# Their templates and processors as published: Qwen's say that they are a helpful assistant, MiMo's names itself, Qwen3-VL's adds no system
# turn, and that of its Thinking models opens the thought in the prompt.
FAMILIES = {
    "qwen2_5_vl": Family("qwen2_5_vl", "You are a helpful assistant."),
    "mimo_vl": Family("qwen2_5_vl", "You are MiMo, an AI assistant developed by Xiaomi."),
    "qwen3_vl": Family("qwen3_vl"),
    "qwen3_vl_thinking": Family("qwen3_vl", opening="<think>\n"),
}

_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and SYSTEM and message['role'] != 'system' %}<|im_start|>system\n{{ SYSTEM }}<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{{ OPENING }}{% endif %}"
)


def template(family: Family) -> str:
    """The chat template of a family."""
    quoted = {name: repr(text).replace("\\n", "\n") for name, text in (("SYSTEM", family.system), ("OPENING", family.opening))}
    return _TEMPLATE.replace("SYSTEM", quoted["SYSTEM"]).replace("OPENING", quoted["OPENING"])


def build(name: str, texts: Iterable[str], out: Path, seed: int = 0, likely: Sequence[str] = ()) -> Path:
    """Write a random base of the family FAMILIES[name], with a tokenizer made for texts, to the folder out.

    likely: texts that are one token each and that the base writes here and there, so that a reward differs from rollout to rollout.
    """
    import torch
    from transformers import GenerationConfig

    torch.manual_seed(seed)
    family = FAMILIES[name]
    tokenizer = _tokenizer(texts, template(family))
    tokenizer.add_tokens(list(likely))
    processor = _processor(family, tokenizer)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    model = _model(family, len(tokenizer), ids)
    with torch.no_grad():
        if likely:
            _make_likely(model, tokenizer.convert_tokens_to_ids(list(likely)))
    model.generation_config = GenerationConfig(eos_token_id=ids[IM_END], pad_token_id=ids[PAD])
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def _make_likely(model: Any, ids: list[int]) -> None:
    """Give each token a few percent of the probability: more in some places, less in others, and one about as much as another.

    The first number of each hidden state becomes about the same everywhere, so that a weight for it adds a constant to a logit.
    """
    model.model.language_model.embed_tokens.weight[:, 0] = 2
    head = model.lm_head.weight
    head[:, 0] = 0
    head[ids] += 20 * head[ids[-1:]]
    head[ids, 0] = 0.35


def _tokenizer(texts: Iterable[str], chat_template: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=640, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=IM_END, clean_up_tokenization_spaces=False)
    fast.chat_template = chat_template
    return fast


def _processor(family: Family, tokenizer: Any) -> Any:
    import transformers

    # Images of up to 16 merged patches a side.
    size = {"shortest_edge": (2 * family.patch) ** 2, "longest_edge": (16 * 2 * family.patch) ** 2}
    settings = {"size": size, "patch_size": family.patch, "temporal_patch_size": 2, "merge_size": 2}
    if family.model == "qwen3_vl":
        settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        kinds = transformers.Qwen3VLProcessor, transformers.Qwen3VLVideoProcessor
    else:
        kinds = transformers.Qwen2_5_VLProcessor, transformers.Qwen2VLVideoProcessor
    return kinds[0](
        image_processor=transformers.Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=kinds[1](**settings),
        chat_template=tokenizer.chat_template,
    )


def _model(family: Family, vocabulary: int, ids: dict[str, int]) -> Any:
    import transformers

    text = {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": ids[IM_END],
        "pad_token_id": ids[PAD],
    }
    vision = {
        "depth": 2,
        "hidden_size": VISION_HIDDEN,
        "intermediate_size": 2 * VISION_HIDDEN,
        "num_heads": VISION_HIDDEN // 32,
        "patch_size": family.patch,
        "out_hidden_size": HIDDEN,
    }
    rope = {"rope_type": "default", "rope_theta": 1e6}
    if family.model == "qwen3_vl":
        text |= {"head_dim": HEAD, "rope_parameters": rope | {"mrope_section": [12, 10, 10], "mrope_interleaved": True}}
        vision |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
        kinds = transformers.Qwen3VLConfig, transformers.Qwen3VLForConditionalGeneration
    else:
        text |= {"rope_parameters": rope | {"mrope_section": [8, 12, 12]}}
        vision |= {"window_size": 112, "fullatt_block_indexes": [1]}
        kinds = transformers.Qwen2_5_VLConfig, transformers.Qwen2_5_VLForConditionalGeneration
    config = kinds[0](
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE_PAD],
        video_token_id=ids[VIDEO_PAD],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=False,
    )
    return kinds[1](config)
