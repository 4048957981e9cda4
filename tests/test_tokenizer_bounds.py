"""Work per text is bounded by what is kept of it, and the ids are those of encoding everything and cutting then."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import transformers
from tokenizers import Regex, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

import tiny_models
from assay.content import is_local
from assay.errors import ValidationError
from assay.rendering import Renderer
from assay.tokenize_options import TokenizeOptions
from assay.tokenizer import Tokenizer
from assay.tokenizer_facts import facts_of
from tiny_models import SENTENCES

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
KINDS = ("Bert", "Roberta", "XLMRoberta", "Camembert", "llama-3", "metaspace-first")
GLUE = ("", " ", " ", " ", "  ", "\n", "\r\n\n", "\t", " " * 70, "\n" * 40, "-", "'s ", ", ", "。", "\u200d")
RUNS = ("7" * 100, "x" * 150, "日本語" * 40, "A1" * 60, "🇩🇪" * 30, "e\u0301\u0302" * 25, "!?" * 45, "don't've" * 9)


@cache
def tokenizer(kind: str) -> Tokenizer:
    if kind in tiny_models.FAMILIES:
        return Tokenizer.around(tiny_models.FAMILIES[kind].tokenizer())
    base = tiny_models.FAMILIES["Roberta" if kind == "llama-3" else "XLMRoberta"].tokenizer()
    backend = Backend.from_str(base.backend_tokenizer.to_str())
    if kind == "llama-3":
        split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return Tokenizer.around(transformers.PreTrainedTokenizerFast(tokenizer_object=backend))


def fuzzed_text(rng: random.Random, special: list[str]) -> str:
    """Sentences, single words, runs of one kind of character and special tokens, glued in many ways."""
    size = rng.choice((0, 20, 900, 2500, 6000))
    words = rng.choice((SENTENCES, SENTENCES[:3], SENTENCES[5:8], ("a", "of", "the")))
    parts: list[str] = []
    while sum(map(len, parts)) < size:
        draw = rng.random()
        if draw < 0.04:
            parts.append(rng.choice(RUNS))
        elif draw < 0.08:
            parts.append(rng.choice(special))
        elif draw < 0.4:
            parts += rng.choice(words).split(" ")[: rng.randint(1, 4)]
        else:
            parts.append(rng.choice(words))
        parts.append(rng.choice(GLUE))
    return "".join(parts)


def fuzzed_inputs(kind: str, count: int) -> Iterator[tuple[str | tuple[str, str], int]]:
    rng = random.Random(kind)
    special = [token.content for token in tokenizer(kind).backend.get_added_tokens_decoder().values()]
    for _ in range(count):
        text = fuzzed_text(rng, special)
        prompt = text if rng.random() < 0.5 else (text, fuzzed_text(rng, special))
        yield prompt, rng.choice((0, 1, 2, 3, 4, 5, 8, 17, 40, 64))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_bounded_truncation_gives_the_ids_of_encoding_all_and_cutting(kind: str, side: str) -> None:
    ours = tokenizer(kind)
    ours.facts = dataclasses.replace(ours.facts, truncation_side=side)
    num_bounded = 0
    for prompt, length in fuzzed_inputs(kind, 120):
        for explicit in (None, side):
            (bounded,) = ours.encode_batch([prompt], truncate_to=length, truncation_side=explicit)
            (whole,) = ours.encode_whole([prompt], True, length, explicit)
            assert bounded.input_ids == whole.input_ids, (prompt, length, explicit)
            assert bounded.token_type_ids == whole.token_type_ids
            assert bounded.is_truncated == whole.is_truncated
            if bounded.num_tokens_before_truncation is None:
                num_bounded += 1
            else:
                assert bounded.num_tokens_before_truncation == whole.num_tokens_before_truncation
    assert num_bounded > 60, "most of the long texts were not encoded to their end"


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_put_together_equal_the_backends_own(kind: str) -> None:
    ours = tokenizer(kind)
    prompts = [prompt for prompt, _ in fuzzed_inputs(kind, 60)]
    for add_special_tokens in (True, False):
        together = ours.encode_batch(prompts, add_special_tokens=add_special_tokens)
        assert together == [ours.encode_whole([prompt], add_special_tokens, None, None)[0] for prompt in prompts]


class CountingBackend:
    """Forwards to a backend and notes every text it encodes."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.texts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def encode(self, text: str, *pair: str, **options: Any) -> Any:
        self.texts += [text, *pair]
        return self._backend.encode(text, *pair, **options)

    def encode_batch(self, texts: list[str], **options: Any) -> Any:
        self.texts += texts
        return self._backend.encode_batch(texts, **options)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
        self.texts += texts
        return self._backend.encode_batch_fast(texts, **options)


@pytest.fixture
def counted() -> tuple[Tokenizer, CountingBackend]:
    hf = tiny_models.FAMILIES["Bert"].tokenizer()
    counting = CountingBackend(hf.backend_tokenizer)
    ours = Tokenizer(counting, facts_of(hf), lambda: hf)
    counting.texts.clear()
    return ours, counting


def test_the_query_of_many_pairs_is_encoded_once(counted: tuple[Tokenizer, CountingBackend]) -> None:
    ours, counting = counted
    query, first_texts = "which fox is quick?", {}
    for start in (0, 100):
        pairs: list[str | tuple[str, str]] = [(query, f"document {n}") for n in range(start, start + 100)]
        ours.encode_batch(pairs, truncate_to=20, first_texts=first_texts)
    assert counting.texts.count(query) == 1
    assert len(counting.texts) == 201
    ours.encode_batch([(f"query {n}", "document") for n in range(1000)], first_texts=first_texts)
    assert list(first_texts) == [query], "queries that are all different are not kept"


@pytest.mark.parametrize("truncation_side", [None, "right", "left"])
def test_the_text_looked_at_is_bounded(counted: tuple[Tokenizer, CountingBackend], truncation_side: str | None) -> None:
    ours, counting = counted
    long = " ".join(SENTENCES) * 500
    ours.encode_batch([long, (long, "short")], truncate_to=100, truncation_side=truncation_side)
    assert sum(map(len, counting.texts)) < 8_000 < len(long) / 10


@pytest.mark.parametrize("is_first_long", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
def test_of_a_pair_no_more_is_looked_at_than_tells_which_text_is_longer(
    counted: tuple[Tokenizer, CountingBackend], side: str, is_first_long: bool
) -> None:
    ours, counting = counted
    medium, long = " ".join(SENTENCES) * 4, " ".join(SENTENCES) * 1000
    pair = (long, medium) if is_first_long else (medium, long)
    for length in (100, 101):  # an odd token, which goes to the longer text, is left in one of them
        counting.texts.clear()
        (bounded,) = ours.encode_batch([pair], truncate_to=length, cut_side=side)
        assert sum(map(len, counting.texts)) < len(long) / 10
        (whole,) = ours.encode_whole([pair], True, length, None, cut_side=side)
        assert (bounded.input_ids, bounded.token_type_ids) == (whole.input_ids, whole.token_type_ids)


def test_a_text_far_too_long_is_refused_without_encoding_it(counted: tuple[Tokenizer, CountingBackend]) -> None:
    ours, counting = counted
    renderer = Renderer(ours, vocab_size=1000, type_vocab_size=2)
    ours.__dict__["max_chars_per_token"] = 10**6  # so that the count of characters alone refuses nothing
    with pytest.raises(ValidationError, match=r"contains at least \d+ input tokens"):
        renderer.render([" ".join(SENTENCES) * 500], TokenizeOptions(100))
    assert sum(map(len, counting.texts)) < 8_000
    with pytest.raises(ValidationError, match=r"contains 202 input tokens"):
        renderer.render(["fox " * 200], TokenizeOptions(100))


def test_the_backend_does_not_hold_the_gil_for_a_long_text() -> None:
    ours, text = tokenizer("Bert"), " ".join(SENTENCES) * 300
    num_ticks, is_done = 0, threading.Event()

    def tick() -> None:
        nonlocal num_ticks
        while not is_done.wait(0.001):
            num_ticks += 1

    ticker = threading.Thread(target=tick)
    ticker.start()
    ours.encode_batch([text])
    is_done.set()
    ticker.join()
    assert num_ticks >= 10, "hundreds are usual; one or two where the GIL is held all the time"


@pytest.mark.parametrize("order", ["$B [SEP] $A", "$A [SEP] $B $A"])
def test_an_unusual_post_processor_falls_back_to_whole_pairs(order: str) -> None:
    hf = tiny_models.FAMILIES["Bert"].tokenizer()
    hf.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=f"[CLS] {order} [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    ours = Tokenizer.around(hf)
    for pair in (("a fox", "the dog jumps"), ("", "dog")):
        expected = hf([pair[0]], [pair[1]])["input_ids"][0]
        assert ours.encode_batch([pair])[0].input_ids == expected
        assert ours.encode_batch([pair, "a fox"])[1].input_ids == hf("a fox")["input_ids"]


@pytest.mark.parametrize("pattern", [r"\d(?=\d{3})", r"(?<=a)b", r"(a)\1"])
def test_a_pattern_that_looks_around_is_not_trusted(pattern: str) -> None:
    assert not is_local(None, pre_tokenizers.Split(Regex(pattern), "isolated"))
    assert is_local(None, pre_tokenizers.Split(Regex(LLAMA_3), "isolated"))
    assert not is_local(None, None)
