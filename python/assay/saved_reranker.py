"""Rerankers saved by sentence-transformers with a causal language model: a LogitScore module behind the Transformer.

Such a folder says itself which tokens make the score, and carries the prompt as its chat template.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ConfigError, UnsupportedModelError
from assay.hf_config import read_json

if TYPE_CHECKING:
    from pathlib import Path

_KINDS: Final = ["Transformer", "LogitScore"]


@dataclass(frozen=True, slots=True)
class SavedReranker:
    """What the folder states.

    The score is the logit of true_token_id, less that of false_token_id where there is one. takes_messages: a pair is
    rendered by the folder's chat template with template_kwargs; prompt: the system message put in front by default.
    """

    true_token_id: int
    false_token_id: int | None
    takes_messages: bool
    template_kwargs: dict[str, Any]
    prompt: str | None


def read_saved_reranker(folder: Path) -> SavedReranker | None:
    """Read modules.json and what it names; None where the folder is no such reranker.

    Raises ConfigError for broken files, UnsupportedModelError for a score that is not made of the last logits.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        kinds = [str(entry["type"]).rpartition(".")[2] for entry in entries]
        if kinds != _KINDS:
            return None
        score = read_json(folder / str(entries[1]["path"]) / "config.json")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as err:
        raise ConfigError(f"{path} is not a sentence-transformers module list: {err!r}") from err
    true_id, false_id = score.get("true_token_id"), score.get("false_token_id")
    if type(true_id) is not int or not (false_id is None or type(false_id) is int):
        raise ConfigError(f"{path}: LogitScore needs the ids true_token_id and false_token_id, got {score}")
    if score.get("module_input_name", "causal_logits") != "causal_logits":
        raise UnsupportedModelError(f"{path}: LogitScore reads {score['module_input_name']!r}, not causal_logits")
    settings = read_json(folder / "sentence_bert_config.json")
    saved = read_json(folder / "config_sentence_transformers.json")
    prompts, name = saved.get("prompts"), saved.get("default_prompt_name")
    kwargs = (settings.get("processing_kwargs") or {}).get("chat_template") or {}
    return SavedReranker(
        true_token_id=true_id,
        false_token_id=false_id,
        takes_messages="message" in (settings.get("modality_config") or {}),
        template_kwargs={key: value for key, value in kwargs.items() if key != "restore_suffix"},
        prompt=(prompts.get(name) or None) if isinstance(prompts, dict) and name is not None else None,
    )
