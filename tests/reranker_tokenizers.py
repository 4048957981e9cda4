"""Tokenizers of the kinds that language-model rerankers have, small: Qwen's, Gemma's and Llama 3's."""

from __future__ import annotations

from functools import cache
from typing import Any

import tiny_models

QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN3_TOKENS = (*QWEN_TOKENS, "<think>", "</think>")
GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
LLAMA3_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_ANSWERS = ("yes", "no", "Yes", "No", "0", "1", "query", "document", "Query", "Document", "passage", "question")


def _lines() -> list[str]:
    return [*tiny_models.corpus(), *_ANSWERS * 40]


def _model(backend: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    import json

    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _byte_bpe(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level BPE trained behind Qwen's splitting rule."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        _lines(), trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return _model(backend)


@cache
def qwen3() -> Any:
    """Qwen3's: byte-level, no token added in front or behind; the last id is the last special token."""
    from transformers import Qwen2Tokenizer

    vocab, merges = _byte_bpe(620)
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=4096
    )
    tokenizer.add_tokens(list(QWEN3_TOKENS), special_tokens=True)
    return tokenizer


@cache
def qwen2() -> Any:
    """Qwen2's: the same without tokens for thoughts."""
    from transformers import Qwen2Tokenizer

    vocab, merges = _byte_bpe(620)
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=4096
    )
    tokenizer.add_tokens(list(QWEN_TOKENS), special_tokens=True)
    return tokenizer


@cache
def gemma() -> Any:
    """Gemma's: BPE over whole texts with spaces as a visible character, bytes for the rest, <bos> in front."""
    from tokenizers import Tokenizer, models, trainers
    from transformers import GemmaTokenizer

    trained = Tokenizer(models.BPE())
    words = ["\u2581" + word for line in _lines() for word in line.split()] + list(_ANSWERS) * 40
    trained.train_from_iterator(words, trainers.BpeTrainer(vocab_size=600, show_progress=False))
    learned, merges = _model(trained)
    first = [*GEMMA_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), "\n"]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys([*first, *learned]))}
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True, model_max_length=4096)
    tokenizer.add_tokens(["<start_of_turn>", "<end_of_turn>"], special_tokens=True)
    return tokenizer


@cache
def llama3() -> Any:
    """Llama 3's: byte-level, with <|begin_of_text|> in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab, merges = _byte_bpe(620)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(LLAMA3_TOKENS))
    bos = "<|begin_of_text|>"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token="<|end_of_text|>",
        pad_token="<|end_of_text|>",
        model_max_length=4096,
    )
