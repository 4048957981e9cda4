"""Scored pairs as templates render them: the shipped prompts to the letter, and what is cut when one is too long."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import reranker_tokenizers
import tiny_models
from assay.errors import ValidationError
from assay.rendering import Renderer
from assay.templated import ScoreTemplate, TemplatedPair, added_bos, ends_of
from assay.templates import Template, template_source
from assay.text_limits import cut_texts
from assay.tokenize_options import TokenizeOptions, tokenize_options
from assay.tokenizer import Tokenizer

QUERY = "how long does the battery last?"
DOC = "A battery that lasts two days is worth the extra weight!"
LONG = " ".join(tiny_models.SENTENCES * 12)
MAX_MODEL_LEN = 8192


def qwen3_prompt(query: str, doc: str, instruction: str | None = None) -> str:
    """The model card's: prefix, format_instruction, suffix."""
    task = instruction or "Given a web search query, retrieve relevant passages that answer the query"
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    return f"{prefix}<Instruct>: {task}\n<Query>: {query}\n<Document>: {doc}{suffix}"


def mxbai_prompt(query: str, doc: str, instruction: str | None = None) -> str:
    """The authors' package: chat prefix, query, separator, document, separator, task, chat suffix."""
    prefix = (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n"
    )
    task = (
        "You are a search relevance expert who evaluates how well documents match search queries. For each "
        "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
        "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
    )
    asked = f"instruction: {instruction}\n" if instruction else ""
    return f"{prefix}{asked}query: {query}\ndocument: {doc}\n{task}<|im_end|>\n<|im_start|>assistant\n"


def gemma_prompt(query: str, doc: str, instruction: str | None = None) -> str:
    """The model card's get_inputs, without the <bos> that the tokenizer adds; an instruction has no place in it."""
    question = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by "
        "providing a prediction of either 'Yes' or 'No'."
    )
    return "\n".join([f"A: {query}", f"B: {doc}", question])


def nemotron_prompt(query: str, doc: str, instruction: str | None = None) -> str:
    """The model card's prompt_template."""
    return f"question:{query} \n \n passage:{doc}"


CASES = {
    "qwen3_reranker.jinja": (qwen3_prompt, reranker_tokenizers.qwen3),
    "mxbai_rerank_v2.jinja": (mxbai_prompt, reranker_tokenizers.qwen2),
    "bge-reranker-v2-gemma.jinja": (gemma_prompt, reranker_tokenizers.gemma),
    "nemotron-rerank.jinja": (nemotron_prompt, reranker_tokenizers.llama3),
}


@cache
def tokenizer(name: str) -> Tokenizer:
    return Tokenizer.around(CASES[name][1]())


def template(name: str, **variables: Any) -> ScoreTemplate:
    return ScoreTemplate(Template(template_source(name)), variables, added_bos=added_bos(tokenizer(name)))


def render(name: str, query: str = QUERY, doc: str = DOC, **kwargs: Any) -> list[int]:
    ours = tokenizer(name)
    renderer = Renderer(ours, ours.max_token_id + 1, 0)
    pair = TemplatedPair(template(name), query, doc)
    (sequence,) = renderer.render([pair], tokenize_options(kwargs, MAX_MODEL_LEN))
    return sequence.input_ids


PAIRS = [(QUERY, DOC), ("", ""), *tiny_models.pair_texts()[::7]]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("pair", PAIRS, ids=range(len(PAIRS)))
def test_shipped_prompts_are_those_of_the_model_cards(name: str, pair: tuple[str, str]) -> None:
    by_hand, make_tokenizer = CASES[name]
    assert template(name).text(*pair) == by_hand(*pair)
    assert render(name, *pair) == make_tokenizer()(by_hand(*pair))["input_ids"]


@pytest.mark.parametrize("key", ["instruction", "instruct"])
@pytest.mark.parametrize("name", CASES)
def test_instructions_stand_where_the_model_card_has_them(name: str, key: str) -> None:
    task = "Find passages about batteries"
    assert template(name, **{key: task}).text(QUERY, DOC) == CASES[name][0](QUERY, DOC, task)
    assert template(name, **{key: ""}).text(QUERY, DOC) == CASES[name][0](QUERY, DOC)


def test_the_ends_of_a_prompt_are_what_no_pair_changes() -> None:
    for name, (by_hand, _) in CASES.items():
        found = ends_of(Template(template_source(name)))
        if name == "nemotron-rerank.jinja":
            assert found is None, "it ends with the document"
            continue
        assert found is not None
        for query, doc, task in (("a", "b", None), (QUERY, DOC, "Find it"), ("", "", "")):
            text = by_hand(query, doc, task)
            assert text.startswith(found[0]) and text.endswith(found[1])


def test_gemmas_question_can_be_replaced() -> None:
    text = template("bge-reranker-v2-gemma.jinja", prompt="Is B true?").text(QUERY, DOC)
    assert text == f"A: {QUERY}\nB: {DOC}\nIs B true?"


@pytest.mark.parametrize("name", CASES)
def test_only_special_tokens_of_the_tokenizer_are_added_and_once(name: str) -> None:
    ids = render(name)
    bos = CASES[name][1]().bos_token_id
    if bos is None:
        assert render(name, add_special_tokens=False) == ids
    else:
        assert ids.count(bos) == 1 and ids[0] == bos
        assert render(name, add_special_tokens=False) == ids[1:]


def test_a_bos_in_the_template_is_not_doubled() -> None:
    ours = tokenizer("nemotron-rerank.jinja")
    source = "{{ bos_token }}question:{{ messages[0].content }} passage:{{ messages[1].content }}"
    compiled = Template(source, {"bos_token": "<|begin_of_text|>"})
    with_bos = ScoreTemplate(compiled, added_bos=added_bos(ours))
    renderer = Renderer(ours, ours.max_token_id + 1, 0)
    for kwargs in ({}, {"add_special_tokens": False}):
        pair = TemplatedPair(with_bos, QUERY, DOC)
        (sequence,) = renderer.render([pair], tokenize_options(kwargs, MAX_MODEL_LEN))
        assert sequence.input_ids.count(ours.facts.bos_token_id) == 1
        assert ours.decode(sequence.input_ids) == f"<|begin_of_text|>question:{QUERY} passage:{DOC}"


# ---- too long ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("side", [None, "right", "left"])
@pytest.mark.parametrize("room", [0, 1, 7, 60, 300])
def test_a_cut_takes_from_the_document_only(name: str, side: str | None, room: int) -> None:
    """The document is cut before it is rendered, so that the query and both ends of the template stay as they are."""
    by_hand, make_tokenizer = CASES[name]
    keep = len(make_tokenizer()(by_hand(QUERY, ""))["input_ids"]) + room
    ids = render(name, QUERY, LONG, truncate_prompt_tokens=keep, truncation_side=side)
    assert keep - 6 <= len(ids) <= keep  # a token may not end where a character does
    head, tail = by_hand(QUERY, "\0").split("\0")
    text = tokenizer(name).decode(ids)
    bos = CASES[name][1]().bos_token or ""
    doc = text.removeprefix(bos)[len(head) : len(text.removeprefix(bos)) - len(tail)]
    assert text == bos + head + doc + tail
    assert LONG.endswith(doc) if side == "left" else LONG.startswith(doc)


@pytest.mark.parametrize("name", ["qwen3_reranker.jinja", "mxbai_rerank_v2.jinja"])
def test_the_last_ids_of_a_cut_prompt_are_those_of_the_whole(name: str) -> None:
    whole = render(name, QUERY, LONG)
    for keep in (350, 533, 1000):
        cut = render(name, QUERY, LONG, truncate_prompt_tokens=keep)
        assert len(cut) <= keep < len(whole)
        assert cut[-10:] == whole[-10:]


def test_a_limit_that_does_not_bind_changes_nothing() -> None:
    for name in CASES:
        whole = render(name)
        for keep in (len(whole), len(whole) + 1, -1):
            assert render(name, truncate_prompt_tokens=keep) == whole


def test_a_limit_below_the_query_and_the_template_is_refused() -> None:
    for name in CASES:
        least = len(render(name, QUERY, ""))
        assert render(name, QUERY, LONG, truncate_prompt_tokens=least) == render(name, QUERY, "")
        with pytest.raises(ValidationError, match=f"leaves no room for the document: .* take {least} tokens"):
            render(name, QUERY, LONG, truncate_prompt_tokens=least - 1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("doc", ["", "short", LONG])
def test_a_query_that_leaves_no_room_is_cut_where_that_is_asked_for(name: str, side: str, doc: str) -> None:
    by_hand, make_tokenizer = CASES[name]
    ours = tokenizer(name)
    keep = len(make_tokenizer()(by_hand("", ""))["input_ids"]) + 101
    options = TokenizeOptions(MAX_MODEL_LEN, keep, cut_query=True, cut_side=side)
    pairs: list[Any] = [TemplatedPair(template(name), LONG, doc)]
    (sequence,) = Renderer(ours, ours.max_token_id + 1, 0).render(pairs, options)
    assert sequence.is_truncated and len(sequence) <= keep
    (query,) = cut_texts(ours, [LONG], 50, side)
    if doc != LONG:
        assert sequence.input_ids == make_tokenizer()(by_hand(query, doc))["input_ids"]
    else:
        head, tail = by_hand(query, "\0").split("\0")
        assert head in ours.decode(sequence.input_ids) and ours.decode(sequence.input_ids).endswith(tail)
    least = TokenizeOptions(MAX_MODEL_LEN, keep - 100, cut_query=True)
    with pytest.raises(ValidationError, match=f"the template alone takes {keep - 101} of the {keep - 100} tokens"):
        Renderer(ours, ours.max_token_id + 1, 0).render(pairs, least)


def test_without_truncation_too_long_is_an_error() -> None:
    with pytest.raises(ValidationError, match="Please reduce the length of the input prompt"):
        render("qwen3_reranker.jinja", QUERY, LONG * 2)


def test_errors_name_the_pair() -> None:
    ours = tokenizer("qwen3_reranker.jinja")
    renderer = Renderer(ours, ours.max_token_id + 1, 0)
    bad = ScoreTemplate(Template("{{ raise_exception('no') }}"))
    prompts: list[Any] = ["a text", TemplatedPair(bad, QUERY, DOC)]
    with pytest.raises(ValidationError) as caught:
        renderer.render(prompts, tokenize_options(None, 50))
    assert caught.value.__notes__ == ["in prompts[1]"]


def test_a_cut_pair_says_so_and_how_long_it_was() -> None:
    ours = tokenizer("qwen3_reranker.jinja")
    renderer = Renderer(ours, ours.max_token_id + 1, 0)
    pairs: list[Any] = [TemplatedPair(template("qwen3_reranker.jinja"), QUERY, doc) for doc in (DOC, DOC * 30, LONG)]
    sizes = [len(sequence) for sequence in renderer.render(pairs, tokenize_options(None, 10**6))]
    limit = sizes[0] + 200
    short, long, longest = renderer.render(pairs, tokenize_options({"truncate_prompt_tokens": limit}, MAX_MODEL_LEN))
    assert (short.is_truncated, short.num_tokens_before_truncation) == (False, sizes[0])
    assert (long.is_truncated, long.num_tokens_before_truncation) == (True, sizes[1])
    assert (longest.is_truncated, longest.num_tokens_before_truncation) == (True, None), "not counted to its end"


def test_prompts_of_several_kinds_keep_their_places() -> None:
    ours = tokenizer("qwen3_reranker.jinja")
    renderer = Renderer(ours, ours.max_token_id + 1, 0)
    pair = TemplatedPair(template("qwen3_reranker.jinja"), QUERY, LONG)
    prompts: list[Any] = ["a text", pair, [1, 2, 3], (QUERY, DOC), pair]
    for kwargs in ({}, {"truncate_prompt_tokens": 500}):
        options = tokenize_options(kwargs, MAX_MODEL_LEN)
        together = renderer.render(prompts, options)
        assert together == [renderer.render([prompt], options)[0] for prompt in prompts]


def test_lower_case_is_for_all_of_a_pair() -> None:
    name = "qwen3_reranker.jinja"
    for kwargs in ({}, {"truncate_prompt_tokens": 2000}):
        ids = render(name, QUERY.upper(), DOC, do_lower_case=True, **kwargs)
        assert ids == CASES[name][1]()(qwen3_prompt(QUERY, DOC).lower())["input_ids"]
