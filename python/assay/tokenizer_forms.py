"""The two commonest kinds of tokenizer as transformers makes them: what their tokenizer.json says if nothing is odd.

transformers makes these tokenizers anew, from the vocabulary and the settings in tokenizer_config.json, and takes of
the other parts of tokenizer.json next to nothing. Where the file describes exactly the tokenizer that would be made,
reading the file gives the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    Parts = dict[str, dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class TokenizerForm:
    """One class of transformers.

    special_tokens: its defaults, by name. settings: keys of tokenizer_config.json that it reads beside common ones.
    parts: from these settings, the special tokens and their ids to what tokenizer.json has to say, without vocabulary.
    """

    class_name: str
    model_types: frozenset[str]
    has_token_types: bool
    special_tokens: dict[str, str]
    settings: frozenset[str]
    parts: Callable[[dict[str, Any], dict[str, str], dict[str, int]], Parts]

    def describes(self, saved: dict[str, Any], settings: dict[str, Any], tokens: dict[str, str]) -> bool:
        """Whether `saved`, the content of tokenizer.json, is what the class makes of its settings."""
        ids = saved["model"]["vocab"]
        return all(_is_same(saved.get(name), part) for name, part in self.parts(settings, tokens, ids).items())


_VOCABULARY: Final = {"vocab", "merges"}
_ABSENT_IN_OLDER_FILES: Final = {"use_regex", "byte_fallback", "ignore_merges"}
"""Keys that older versions did not write, with one meaning since."""


def _is_same(saved: dict[str, Any] | None, wanted: dict[str, Any] | None) -> bool:
    if saved is None or wanted is None:
        return saved is wanted
    keys = saved.keys() - _VOCABULARY
    missing = wanted.keys() - keys
    return missing <= _ABSENT_IN_OLDER_FILES and all(key in wanted and saved[key] == wanted[key] for key in keys)


def _bert(settings: dict[str, Any], tokens: dict[str, str], ids: dict[str, int]) -> Parts:
    def special(token: str, type_id: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": type_id}}

    def text(name: str, type_id: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": type_id}}

    cls, sep = tokens["cls_token"], tokens["sep_token"]
    single = [special(cls, 0), text("A", 0), special(sep, 0)]
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": settings.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, text("B", 1), special(sep, 1)],
            "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (cls, sep)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": tokens["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
    }


def _roberta(settings: dict[str, Any], tokens: dict[str, str], ids: dict[str, int]) -> Parts:
    cls, sep = tokens["cls_token"], tokens["sep_token"]
    has_prefix_space = settings.get("add_prefix_space", False)
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "add_prefix_space": has_prefix_space},
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [sep, ids[sep]],
            "cls": [cls, ids[cls]],
            "trim_offsets": settings.get("trim_offsets", True),
            "add_prefix_space": has_prefix_space,
        },
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
        },
    }


FORMS: Final = (
    TokenizerForm(
        "BertTokenizer",
        frozenset({"bert", "distilbert", "electra", "ernie"}),
        True,
        {
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
        },
        frozenset({"do_lower_case", "tokenize_chinese_chars", "strip_accents"}),
        _bert,
    ),
    TokenizerForm(
        "RobertaTokenizer",
        frozenset({"roberta"}),
        False,
        {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "cls_token": "<s>",
            "mask_token": "<mask>",
        },
        frozenset({"add_prefix_space", "trim_offsets"}),
        _roberta,
    ),
)
