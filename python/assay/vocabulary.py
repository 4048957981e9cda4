"""What a tokenizer's files say without loading it: token ids, the chat template, the end-of-text token."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ConfigError
from assay.hf_config import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TEMPLATE_FILE: Final = "chat_template.jinja"


class Vocabulary:
    """The tokenizer files of one folder; each is read once, when it is first asked about."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def has_all(self, tokens: Iterable[str]) -> bool:
        """Whether every string of `tokens` is one token."""
        return all(token in self._ids for token in tokens)

    def ids(self, tokens: Iterable[str]) -> list[int]:
        """The id of each token, as the tokenizer's convert_tokens_to_ids; raises ConfigError for a string that is none.

        "Yes" and "yes" are different tokens, and so is a token that begins with a space.
        """
        found = []
        for token in tokens:
            if not isinstance(token, str) or token not in self._ids:
                raise ConfigError(f"{token!r} is not one token of the tokenizer in {self._folder}")
            found.append(self._ids[token])
        return found

    def token(self, token_id: int) -> str | None:
        """The token with an id; None where there is none."""
        return next((token for token, known in self._ids.items() if known == token_id), None)

    @functools.cached_property
    def chat_template(self) -> str | None:
        """The template the tokenizer is saved with (the one named "default" of several); None where there is none."""
        path = self._folder / _TEMPLATE_FILE
        if path.is_file():
            return path.read_text(encoding="utf-8")
        saved = self._settings.get("chat_template")
        if isinstance(saved, list):  # [{"name": ..., "template": ...}]
            saved = next((entry.get("template") for entry in saved if entry.get("name") == "default"), None)
        return saved if isinstance(saved, str) else None

    @functools.cached_property
    def eos_token(self) -> str | None:
        """The end-of-text token as text."""
        saved = self._settings.get("eos_token")
        saved = saved.get("content") if isinstance(saved, dict) else saved
        return saved if isinstance(saved, str) else None

    @functools.cached_property
    def _settings(self) -> dict[str, Any]:
        return read_json(self._folder / "tokenizer_config.json")

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        if (self._folder / "tokenizer.json").is_file():
            return _from_tokenizer_json(read_json(self._folder / "tokenizer.json"))
        if (self._folder / "vocab.json").is_file():
            added = {
                entry["content"]: int(token_id)
                for token_id, entry in self._settings.get("added_tokens_decoder", {}).items()
            }
            plain = {**read_json(self._folder / "vocab.json"), **read_json(self._folder / "added_tokens.json")}
            return {**plain, **added}
        return _from_transformers(self._folder)


def _from_tokenizer_json(data: dict[str, Any]) -> dict[str, int]:
    vocab = data.get("model", {}).get("vocab", {})
    if isinstance(vocab, list):  # Unigram: [[piece, score], ...]
        vocab = {entry[0]: index for index, entry in enumerate(vocab)}
    return {**vocab, **{entry["content"]: entry["id"] for entry in data.get("added_tokens", [])}}


def _from_transformers(folder: Path) -> dict[str, int]:
    """Files only transformers can read (SentencePiece models); {} where there is no tokenizer at all."""
    if not any((folder / name).is_file() for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")):
        return {}
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, TypeError, json.JSONDecodeError) as err:
        raise ConfigError(f"tokenizer {str(folder)!r} cannot be loaded: {err}") from err
    vocab: dict[str, int] = tokenizer.get_vocab()
    return vocab
