# SPDX-License-Identifier: Apache-2.0
"""What a model's chat template writes before an answer: some templates open the think block there, so that the answer begins inside it."""

import json
from pathlib import Path
from typing import Any


def read(folder: Path) -> str:
    """The template of a model folder that its processor would use; "" without one."""
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        file = folder / name
        template = json.loads(file.read_text(encoding="utf-8")).get("chat_template") if file.is_file() else None
        # Several templates stand in a list, each with its name.
        named = {entry["name"]: entry["template"] for entry in template} if isinstance(template, list) else {"default": template}
        if named.get("default"):
            return str(named["default"])
    return ""


def opens_thought(template: str, tags: tuple[str, str], **given: Any) -> bool:
    """Whether a template ends a prompt inside a think block. tags: those around the block. given: further arguments of the template.

    ValueError if it cannot be rendered: a template is a program of the model's makers.

    >>> opens_thought("{{ messages[0]['role'] }}: {% if add_generation_prompt %}<think>{% endif %}", ("<think>", "</think>"))
    True
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # As transformers renders, utils/chat_template_utils.py of 5.9.0.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: form
    messages = [{"role": "user", "content": [{"type": "text", "text": "Question"}]}]
    try:
        rendered = environment.from_string(template).render(messages=messages, add_generation_prompt=True, **given)
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error!s:.200}") from error
    opening, closing = (rendered.rfind(tag) for tag in tags)
    return opening > closing


def _raise(message: str) -> None:
    raise ValueError(message)
