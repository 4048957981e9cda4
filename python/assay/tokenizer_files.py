"""A tokenizer from its files without importing transformers, which alone takes longer than a small model's first score.

Only where the result is known to be what transformers would make of the same files (`tokenizer_forms.py`); for
everything else `plain_tokenizer` gives None and transformers is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from assay.hf_config import read_json
from assay.tokenizer_facts import TokenizerFacts, length_limit
from assay.tokenizer_forms import FORMS, TokenizerForm

if TYPE_CHECKING:
    from pathlib import Path

_COMMON_SETTINGS: Final = frozenset(
    "added_tokens_decoder backend clean_up_tokenization_spaces do_basic_tokenize errors is_local local_files_only "
    "max_length model_input_names model_max_length name_or_path pad_to_multiple_of pad_token_type_id padding_side "
    "special_tokens_map_file stride tokenizer_class truncation_side truncation_strategy".split()
)
"""Keys of tokenizer_config.json with no say in token ids, or read below."""
_OTHER_FILES: Final = ("added_tokens.json", "chat_template.jinja", "additional_chat_templates")
_PLAIN: Final = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_MAX_VOCABULARY: Final = 100_000
"""transformers looks into larger ones for a mistake of one family, and may repair it."""


class PlainTokenizer(NamedTuple):
    """backend: a `tokenizers.Tokenizer`."""

    backend: Any
    facts: TokenizerFacts


def plain_tokenizer(folder: Path) -> PlainTokenizer | None:
    """The tokenizer of a folder, or None where only transformers knows what it is. Raises ConfigError for bad JSON."""
    settings = read_json(folder / "tokenizer_config.json")
    form = _form(read_json(folder / "config.json"), settings)
    path = folder / "tokenizer.json"
    if form is None or not path.is_file() or any((folder / name).exists() for name in _OTHER_FILES):
        return None
    if "added_tokens_decoder" not in settings:
        settings = {**settings, **read_json(folder / "special_tokens_map.json")}
    if not all(_is_known(key, value, form) for key, value in settings.items()):
        return None
    saved = read_json(path)
    tokens = {name: _text(settings.get(name, default)) for name, default in form.special_tokens.items()}
    if not _has_vocabulary(saved) or not _are_as_saved(tokens, saved, settings):
        return None
    if not form.describes(saved, settings, tokens):
        return None
    from tokenizers import Tokenizer

    return PlainTokenizer(Tokenizer.from_file(str(path)), _facts(form, saved, settings, tokens))


def _form(config: dict[str, Any], settings: dict[str, Any]) -> TokenizerForm | None:
    """The class transformers would choose, where the files leave no doubt."""
    if "auto_map" in config or config.get("tokenizer_class") is not None:
        return None
    form = next((form for form in FORMS if config.get("model_type") in form.model_types), None)
    named = settings.get("tokenizer_class")
    return form if form is not None and named in (None, form.class_name, form.class_name + "Fast") else None


def _is_known(key: str, value: Any, form: TokenizerForm) -> bool:
    if key in form.special_tokens:
        return isinstance(_text(value), str)
    return key in _COMMON_SETTINGS or key in form.settings or value is None or value in ([], {})


def _text(token: Any) -> Any:
    """A special token's text, whether it is written plainly or with its properties."""
    return token.get("content") if isinstance(token, dict) else token


def _has_vocabulary(saved: dict[str, Any]) -> bool:
    model = saved.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    return isinstance(vocab, dict) and len(vocab) <= _MAX_VOCABULARY


def _are_as_saved(tokens: dict[str, str], saved: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether the special tokens are those of tokenizer.json, in one way to read them.

    They all are in the vocabulary, tokenizer.json adds no others, tokenizer_config.json describes them alike where it
    does, and those that only the class knows have no properties of their own.
    """
    added = {entry["id"]: {key: entry[key] for key in entry if key != "id"} for entry in saved.get("added_tokens", [])}
    by_text = {entry["content"]: token_id for token_id, entry in added.items()}
    vocab = saved["model"]["vocab"]
    if by_text.keys() != set(tokens.values()) or len(by_text) != len(added):
        return False
    if any(vocab.get(text) != token_id or not added[token_id]["special"] for text, token_id in by_text.items()):
        return False
    if any(
        added[by_text[text]] != {"content": text, **_PLAIN} for name, text in tokens.items() if name not in settings
    ):
        return False
    described = settings.get("added_tokens_decoder")
    return described is None or {int(token_id): entry for token_id, entry in described.items()} == added


def _facts(
    form: TokenizerForm, saved: dict[str, Any], settings: dict[str, Any], tokens: dict[str, str]
) -> TokenizerFacts:
    vocab = saved["model"]["vocab"]
    truncation = saved.get("truncation") or {}
    names = settings.get("model_input_names")
    return TokenizerFacts(
        special_tokens=tokens,
        pad_token_id=vocab[tokens["pad_token"]],
        bos_token_id=vocab[tokens["bos_token"]] if "bos_token" in tokens else None,
        model_max_length=length_limit(settings.get("model_max_length")),
        truncation_side=settings.get("truncation_side") or truncation.get("direction", "Right").lower(),
        has_token_types=form.has_token_types if names is None else "token_type_ids" in names,
    )
