"""Rerankers made of language models that score right as they are: known ones, and folders that say it themselves.

A known one is recognised by what lies in its folder: the architecture, the tokenizer's tokens, and a mark that tells
the reranker from the model it was trained from. A name counts as such a mark only together with the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from assay.head_methods import PLAIN_ROWS, TWO_WAY
from assay.saved_reranker import read_saved_reranker
from assay.templates import template_source
from assay.vocabulary import Vocabulary

if TYPE_CHECKING:
    from assay.files import ModelFiles
    from assay.hf_config import HFConfig
    from assay.saved_reranker import SavedReranker


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a language model scores a pair.

    classifier: the architecture it is run as. label_tokens, method: as in `convert`; none where the checkpoint has a
    head of its own. template: its name, template_text the text; None encodes the pair with the tokenizer. prompt: the
    system message every pair begins with. suffix_ids: tokens that stand behind every pair, whatever its template.
    """

    name: str
    classifier: str
    label_tokens: tuple[str, ...] = ()
    method: str | None = None
    template: str | None = None
    template_text: str | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    suffix_ids: tuple[int, ...] = ()

    def template_source(self) -> str | None:
        """The text of the template."""
        if self.template is None or self.template_text is not None:
            return self.template_text
        return template_source(self.template)


@dataclass(frozen=True, slots=True)
class Known:
    """A recipe of the table, and how models of its kind are told.

    causal: the architecture of the original checkpoint. tokens: what its tokenizer must have. The marks: phrase, words
    of the prompt in the saved chat template; name_pattern, what such models are called; trimmed_eos, the end-of-text
    token of those whose word table ends with the last token (the models they were trained from have spare rows).
    """

    recipe: Recipe
    tokens: tuple[str, ...]
    causal: str | None = None
    phrase: str | None = None
    name_pattern: str | None = None
    trimmed_eos: str | None = None


def _jina_vl(classifier: str) -> Known:
    recipe = Recipe("jina-reranker-m0", classifier, template="jina_reranker_m0.jinja", suffix_ids=(100,))
    return Known(recipe, tokens=("<|vision_start|>", "<|image_pad|>", "<|vision_end|>"))


KNOWN: Final = (
    Known(
        Recipe(
            "qwen3-reranker", "Qwen3ForSequenceClassification", ("no", "yes"), TWO_WAY, template="qwen3_reranker.jinja"
        ),
        tokens=("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        causal="Qwen3ForCausalLM",
        phrase="Judge whether the Document meets the requirements based on the Query",
        name_pattern=r"qwen3-reranker",
        trimmed_eos="<|im_end|>",
    ),
    Known(
        Recipe(
            "mxbai-rerank-v2", "Qwen2ForSequenceClassification", ("0", "1"), TWO_WAY, template="mxbai_rerank_v2.jinja"
        ),
        tokens=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        causal="Qwen2ForCausalLM",
        phrase="You are a search relevance expert who evaluates how well documents match",
        name_pattern=r"mxbai-rerank-\w+-v2",
    ),
    Known(
        Recipe(
            "bge-reranker-v2-gemma",
            "GemmaForSequenceClassification",
            ("Yes",),
            PLAIN_ROWS,
            template="bge-reranker-v2-gemma.jinja",
        ),
        tokens=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        causal="GemmaForCausalLM",
        phrase="determine whether the passage contains an answer to the query",
        name_pattern=r"bge-reranker-v2-gemma",
    ),
    Known(
        Recipe(
            "qwen3-vl-reranker",
            "Qwen3VLForSequenceClassification",
            ("no", "yes"),
            TWO_WAY,
            template="qwen3_vl_reranker.jinja",
        ),
        tokens=("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>"),
        causal="Qwen3VLForConditionalGeneration",
        phrase="Judge whether the Document meets the requirements based on the Query",
        name_pattern=r"qwen3-vl-reranker",
    ),
    _jina_vl("JinaVLForRanking"),
    _jina_vl("JinaVLForSequenceClassification"),
    Known(
        Recipe(
            "llama-nemotron-rerank", "LlamaBidirectionalForSequenceClassification", template="nemotron-rerank.jinja"
        ),
        tokens=("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    ),
)


@dataclass(frozen=True, slots=True)
class Match:
    """A recipe that fits a model. reason: by what it was recognised. converts: the head is still to be made."""

    recipe: Recipe
    reason: str
    converts: bool


def recognise(files: ModelFiles, hf_config: HFConfig) -> Match | None:
    """The recipe of a model folder, or None; reads config and tokenizer files only.

    hf_config: with the caller's overrides, which may name the head themselves and leave only the template to find.
    Raises ConfigError for files that are broken.
    """
    architecture = next(iter(hf_config.architectures), "")
    candidates = [known for known in KNOWN if architecture in (known.causal, known.recipe.classifier)]
    saved = None
    if architecture.endswith("ForCausalLM"):
        saved = read_saved_reranker(files.folder)
        if saved is None and (files.folder / "modules.json").is_file():
            return None  # the folder says what it is: an embedding model on the same backbone
    if not candidates and saved is None:
        return None
    vocabulary = Vocabulary(files.tokenizer_folder or files.folder)
    for known in candidates:
        is_original = architecture == known.causal
        # what needs no vocabulary comes first: reading one takes a good part of a second
        if not is_original and _stated_head(known.recipe, hf_config) is None:
            continue
        if not _may_be(known, hf_config, vocabulary):
            continue
        if is_original:
            reason = _mark(known, files, hf_config, vocabulary, saved)
        else:
            reason = _stated_head(known.recipe, hf_config)
        if reason is not None:
            return Match(known.recipe, reason, converts=is_original)
    return None if saved is None else _from_saved(saved, architecture, vocabulary)


def _may_be(known: Known, hf_config: HFConfig, vocabulary: Vocabulary) -> bool:
    """Whether the tokenizer is of this kind, and label tokens that are stated are these."""
    stated = hf_config.get("classifier_from_token")
    labels = known.recipe.label_tokens
    return (stated is None or tuple(stated) == labels) and vocabulary.has_all((*known.tokens, *labels))


def _stated_head(recipe: Recipe, hf_config: HFConfig) -> str | None:
    """Why a checkpoint that is run as the recipe's classifier already is one of this kind; None where it is not."""
    if not recipe.label_tokens:
        return "its architecture and tokenizer"
    is_method = hf_config.get("method") == recipe.method or bool(hf_config.get("is_original_qwen3_reranker"))
    has_labels = hf_config.get("classifier_from_token") is not None
    return "its tokenizer and the label tokens asked for" if is_method and has_labels else None


def _mark(
    known: Known, files: ModelFiles, hf_config: HFConfig, vocabulary: Vocabulary, saved: SavedReranker | None
) -> str | None:
    """What tells the reranker from the language model it was trained from; None where nothing does."""
    if known.phrase is not None and known.phrase in (vocabulary.chat_template or ""):
        return "the prompt in its chat template"
    if saved is not None and saved.takes_messages:
        return None  # it brings another prompt
    names = [*_names(files.name), *_names(str(hf_config.get("_name_or_path", "")))]
    if known.name_pattern is not None and any(re.search(known.name_pattern, name) for name in names):
        return "its architecture, tokenizer and name"
    is_trimmed = known.trimmed_eos is not None and vocabulary.eos_token == known.trimmed_eos
    if is_trimmed and hf_config.get("vocab_size") == len(vocabulary):
        return "its architecture, tokenizer and a word table that ends with the last token"
    return None


def _names(name: str) -> list[str]:
    """What a model is called, from a Hub id or a path; the Hub cache keeps the name two folders up."""
    path = PurePath(name.lower())
    return [path.name, path.parent.parent.name] if path.parent.name == "snapshots" else [path.name]


def _from_saved(saved: SavedReranker, architecture: str, vocabulary: Vocabulary) -> Match | None:
    """The recipe that a sentence-transformers folder states; None where the tokenizer lacks what it names."""
    token_ids = [saved.true_token_id] if saved.false_token_id is None else [saved.false_token_id, saved.true_token_id]
    tokens = [token for token_id in token_ids if (token := vocabulary.token(token_id)) is not None]
    if len(tokens) != len(token_ids) or (saved.takes_messages and vocabulary.chat_template is None):
        return None
    recipe = Recipe(
        name="saved",
        classifier=architecture.removesuffix("ForCausalLM") + "ForSequenceClassification",
        label_tokens=tuple(tokens),
        method=PLAIN_ROWS if saved.false_token_id is None else TWO_WAY,
        template="the folder's chat template" if saved.takes_messages else None,
        template_text=vocabulary.chat_template if saved.takes_messages else None,
        template_kwargs=saved.template_kwargs,
        prompt=saved.prompt,
    )
    return Match(recipe, "the LogitScore module in its modules.json", converts=True)
