from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import llms
import tiny_models
from assay import PoolerConfig, PoolingParams, ScoringRequestOutput, ValidationError

QUERY = "how long does the battery last"
DOCS = [text for text in tiny_models.single_texts() if 0 < len(text) < 90][:40]
OFF = PoolingParams(use_activation=False)


@pytest.fixture(scope="module")
def ranker() -> Any:
    return llms.shared(num_labels=1)


@pytest.fixture(scope="module")
def embedder() -> Any:
    return llms.shared(llms.MODEL)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return llms.reference(num_labels=1)[1]


def scores(outputs: list[ScoringRequestOutput]) -> list[float]:
    return [output.outputs.score for output in outputs]


def expected(query: str, doc: str, family: str = "Bert") -> torch.Tensor:
    return llms.logits(query, doc, num_labels=1, family=family)


def test_one_query_many_documents(ranker: Any, tokenizer: Any) -> None:
    outputs = ranker.score(QUERY, DOCS, use_tqdm=False)
    assert all(isinstance(output, ScoringRequestOutput) for output in outputs)
    for doc, output in zip(DOCS, outputs, strict=True):
        assert output.prompt_token_ids == tokenizer(QUERY, doc)["input_ids"]
        assert llms.close(output.outputs.score, expected(QUERY, doc).sigmoid()[0])
    ids = [int(output.request_id) for output in outputs]
    assert ids == list(range(ids[0], ids[0] + len(DOCS)))


def test_pairings_agree(ranker: Any) -> None:
    many = scores(ranker.score(QUERY, DOCS))
    assert scores(ranker.score([QUERY], DOCS)) == many
    assert scores(ranker.score([QUERY] * len(DOCS), DOCS)) == many
    assert scores(ranker.score(QUERY, DOCS[3])) == [many[3]]
    parts = {"content": [{"type": "text", "text": QUERY}]}
    assert scores(ranker.score(parts, [{"content": doc} for doc in DOCS])) == many


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_family_encodes_pairs_like_its_tokenizer(family: str) -> None:
    # By name: each logit is held to its own size, not the set's largest, which dtype="auto" on AMX tiles does not keep.
    llm = llms.shared(num_labels=1, family=family, dtype="float32")
    tokenizer = llms.reference(num_labels=1, family=family)[1]
    outputs = llm.score(QUERY, DOCS[:12], pooling_params=OFF)
    for doc, output in zip(DOCS, outputs, strict=False):
        assert output.prompt_token_ids == tokenizer(QUERY, doc)["input_ids"]
        assert llms.close(output.outputs.score, expected(QUERY, doc, family)[0])


def test_use_activation(ranker: Any) -> None:
    on, off = scores(ranker.score(QUERY, DOCS)), scores(ranker.score(QUERY, DOCS, pooling_params=OFF))
    assert llms.close(torch.tensor(off).sigmoid(), torch.tensor(on))


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (["a", "b"], "c", "Input lengths must be either 1:1, 1:N or N:N"),
        (["a", "b"], ["c", "d", "e"], "Input lengths must be either 1:1, 1:N or N:N"),
        ([], "c", "At least one text element must be given"),
        ("a", [], "At least one text_pair element must be given"),
        (
            {"content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "c",
            "MultiModalParam is not supported for BertForSequenceClassification",
        ),
    ],
)
def test_wrong_inputs(ranker: Any, left: Any, right: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ranker.score(left, right)
    assert str(caught.value) == message


def test_params_are_one_object_left_alone(ranker: Any) -> None:
    params = PoolingParams(extra_kwargs={"max_tokens_per_doc": 3})
    before = params.clone()
    ranker.score(QUERY, DOCS, pooling_params=params)
    assert params == before
    with pytest.raises(ValueError) as caught:
        ranker.score("a", "b", pooling_params=PoolingParams(task="embed"))
    assert str(caught.value) == "You cannot overwrite pooling_params.task='embed' with pooling_task='classify'!"
    with pytest.raises(ValidationError, match="score takes one PoolingParams for all pairs, got list"):
        ranker.score("a", "b", pooling_params=[OFF])


def test_too_long_and_truncation(ranker: Any, tokenizer: Any) -> None:
    long = "battery " * 100
    with pytest.raises(ValidationError, match="Please reduce the length of the input prompt"):
        ranker.score(long, long)
    with pytest.raises(ValidationError, match="Please request a smaller truncation size"):
        ranker.score(long, long, truncate_prompt_tokens=129)
    for keep in (12, 57, 128, -1):
        (output,) = ranker.score(long, QUERY, tokenization_kwargs={"truncate_prompt_tokens": keep})
        size = 128 if keep == -1 else keep
        theirs = tokenizer(long, QUERY, truncation="longest_first", max_length=size)
        assert output.prompt_token_ids == theirs["input_ids"]
        model, _ = llms.reference(num_labels=1)
        with torch.no_grad():
            logits = model(**theirs.convert_to_tensors("pt", prepend_batch_axis=True)).logits[0]
        assert llms.close(output.outputs.score, logits.sigmoid()[0])


def test_token_limits(ranker: Any, tokenizer: Any) -> None:
    long = "how long does the battery last when it is cold and who will replace it"
    sizes = {}
    for name, keys in {
        "none": [],
        "query": ["max_tokens_per_query"],
        "doc": ["max_tokens_per_doc"],
        "both": ["max_tokens_per_query", "max_tokens_per_doc"],
    }.items():
        params = PoolingParams(extra_kwargs=dict.fromkeys(keys, 10))
        (output,) = ranker.score(long, long, pooling_params=params)
        sizes[name] = len(output.prompt_token_ids)
    content = len(tokenizer(long, add_special_tokens=False)["input_ids"])
    assert sizes == {"none": 2 * content + 3, "query": content + 13, "doc": content + 13, "both": 23}
    for value, message in (
        (-1, "must be a non-negative integer"),
        (128, r"\(128\) must be less than max_model_len \(128\)\."),
    ):
        with pytest.raises(ValueError, match=f"max_tokens_per_doc {message}"):
            ranker.score("a", "b", pooling_params=PoolingParams(extra_kwargs={"max_tokens_per_doc": value}))


def test_a_lone_surrogate_in_a_limited_text_is_a_validation_error(ranker: Any) -> None:
    params = PoolingParams(extra_kwargs={"max_tokens_per_doc": 2})
    with pytest.raises(ValidationError, match=r"lone surrogate U\+D800 at index 2"):
        ranker.score("q", ["fine", "a \ud800 b"], pooling_params=params)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_truncation_below_the_document_limit_cuts_the_document(family: str) -> None:
    """Also where the query is the longer text, which would lose first without the limit."""
    llm, tokenizer = llms.shared(num_labels=1, family=family), llms.reference(num_labels=1, family=family)[1]
    query, doc = "how long does the battery last " * 3, "It lasts two days, " * 4
    params = PoolingParams(extra_kwargs={"max_tokens_per_doc": 100})
    num_query = len(tokenizer(query, add_special_tokens=False)["input_ids"])
    for keep in (num_query + 5, num_query + 12, 128):
        (output,) = llm.score(query, doc, pooling_params=params, truncate_prompt_tokens=keep)
        assert output.prompt_token_ids == tokenizer(query, doc, truncation="only_second", max_length=keep)["input_ids"]
    with pytest.raises(ValidationError, match=f"with the first text's {num_query} tokens none of the second"):
        llm.score(query, doc, pooling_params=params, truncate_prompt_tokens=num_query)
    (cut,) = llm.score(query, doc, truncate_prompt_tokens=num_query)
    assert cut.prompt_token_ids == tokenizer(query, doc, truncation=True, max_length=num_query)["input_ids"]


def test_without_separator_the_texts_are_joined(tokenizer: Any) -> None:
    for overrides in ({"use_sep_token": False}, {"use_pad_token": False, "use_sep_token": True}):
        with llms.load(num_labels=1, hf_overrides=overrides) as llm:
            wide = PoolingParams(extra_kwargs={"max_tokens_per_doc": 100})
            outputs = llm.score(QUERY, DOCS[:5])
            assert scores(llm.score(QUERY, DOCS[:5], pooling_params=wide)) == scores(outputs), "the limit does not bind"
            for doc, output in zip(DOCS, outputs, strict=False):
                assert output.prompt_token_ids == tokenizer(QUERY + doc)["input_ids"]
                assert llms.close(output.outputs.score, llms.logits(QUERY + doc, num_labels=1).sigmoid()[0])


def test_token_classifiers_do_not_score() -> None:
    with pytest.raises(ValueError, match=r"^This model does not support the Scoring API\.$"):
        llms.shared(llms.TOKENS).score("a", "b")


# ---- embedding models ----------------------------------------------------------------------------------------------


def vectors(texts: list[str]) -> torch.Tensor:
    model, tokenizer = llms.reference(llms.MODEL)
    rows = []
    for text in texts:
        with torch.no_grad():
            rows.append(model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0])
    return torch.stack(rows)


def test_embeddings(embedder: Any) -> None:
    assert embedder.pooling_task == "embed"
    outputs = embedder.embed(DOCS)
    raw = vectors(DOCS)
    assert llms.close([output.outputs.embedding for output in outputs], torch.nn.functional.normalize(raw))
    assert outputs[0].outputs.hidden_size == 96
    plain = embedder.embed(DOCS, pooling_params=OFF)
    assert llms.close([output.outputs.embedding for output in plain], raw)
    with pytest.raises(ValueError, match="Classification API is not supported by this model"):
        embedder.classify("a")


def test_embeddings_score_by_cosine(embedder: Any) -> None:
    tokenizer = llms.reference(llms.MODEL)[1]
    outputs = embedder.score(QUERY, DOCS)
    cosine = torch.nn.functional.cosine_similarity(vectors([QUERY]), vectors(DOCS))
    assert llms.close(scores(outputs), cosine)
    first = outputs[0]
    query, doc = tokenizer(QUERY)["input_ids"], tokenizer(DOCS[0])["input_ids"]
    assert first.prompt_token_ids == [*query, tokenizer.pad_token_id, *doc]
    left, right = first.request_id.split("_")
    assert int(right) == int(left) + 1
    assert outputs[1].request_id == f"{left}_{int(right) + 1}"
    assert scores(embedder.score([QUERY] * 3, DOCS[:3])) == scores(outputs)[:3]


def test_embedding_scores_have_the_same_errors_and_limits(embedder: Any) -> None:
    with pytest.raises(ValidationError, match=r"^Input lengths must be either 1:1, 1:N or N:N$"):
        embedder.score(["a", "b"], "c")
    params = PoolingParams(extra_kwargs={"max_tokens_per_doc": 3, "max_tokens_per_query": 2})
    (output,) = embedder.score(QUERY, QUERY, pooling_params=params)
    assert len(output.prompt_token_ids) == 2 + 2 + 1 + 3 + 2
    (output,) = embedder.score(QUERY, {"content": QUERY}, pooling_params=params)
    whole = llms.reference(llms.MODEL)[1](QUERY)["input_ids"]
    assert output.prompt_token_ids[-len(whole) :] == whole, "content parts are not cut"


def test_late_interaction() -> None:
    with llms.load(llms.MODEL, pooler_config=PoolerConfig(task="token_embed")) as llm:
        query, doc = (output.outputs.data for output in llm.encode([QUERY, DOCS[4]], pooling_task="token_embed"))
        (output,) = llm.score(QUERY, DOCS[4])
        assert output.outputs.score == pytest.approx((query @ doc.T).max(dim=1).values.sum().item(), rel=1e-5)


# ---- score templates -----------------------------------------------------------------------------------------------

TEMPLATE = """{{- 'task: ' + (instruction or 'rank') + ' query: ' + messages[0].content -}}
{{- ' document: ' + messages[1].content + ' relevant' -}}"""


def templated(query: str, doc: str, task: str = "rank") -> str:
    return f"task: {task} query: {query} document: {doc} relevant"


def test_a_template_renders_the_pair_as_one_text(ranker: Any, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(TEMPLATE)
    for given in (TEMPLATE, path, str(path)):
        outputs = ranker.score(QUERY, DOCS[:6], chat_template=given)
        for doc, output in zip(DOCS, outputs, strict=False):
            text = templated(QUERY, doc)
            assert output.prompt_token_ids == tokenizer(text)["input_ids"]
            assert llms.close(output.outputs.score, llms.logits(text, num_labels=1).sigmoid()[0])


def test_an_instruction_changes_the_prompt_and_the_score(ranker: Any, tokenizer: Any) -> None:
    (default,) = ranker.score(QUERY, DOCS[0], chat_template=TEMPLATE)
    calls: list[dict[str, Any]] = [
        {"instruction": "the brown fox"},
        {"chat_template_kwargs": {"instruction": "the brown fox"}},
        {"pooling_params": PoolingParams(extra_kwargs={"chat_template_kwargs": {"instruction": "the brown fox"}})},
        {"instruction": "not this", "chat_template_kwargs": {"instruction": "the brown fox"}},
    ]
    for call in calls:
        (output,) = ranker.score(QUERY, DOCS[0], chat_template=TEMPLATE, **call)
        assert output.prompt_token_ids == tokenizer(templated(QUERY, DOCS[0], "the brown fox"))["input_ids"]
        assert output.outputs.score != default.outputs.score


def test_a_default_template_for_scores_is_not_the_one_for_chats(ranker: Any, tokenizer: Any) -> None:
    plain = ranker.score(QUERY, DOCS[0])[0].prompt_token_ids
    with llms.load(num_labels=1, chat_template=TEMPLATE) as llm:
        assert llm.score(QUERY, DOCS[0])[0].prompt_token_ids == plain
    with llms.load(num_labels=1, score_template=TEMPLATE) as llm:
        assert llm.score(QUERY, DOCS[0])[0].prompt_token_ids == tokenizer(templated(QUERY, DOCS[0]))["input_ids"]
        (explicit,) = llm.score(QUERY, DOCS[0], chat_template="{{ messages[1].content }}")
        assert explicit.prompt_token_ids == tokenizer(DOCS[0])["input_ids"]


def test_limits_and_truncation_cut_the_texts_not_the_template(ranker: Any, tokenizer: Any) -> None:
    long = "how long does the battery last when it is cold and who will replace it"
    params = PoolingParams(extra_kwargs={"max_tokens_per_doc": 4, "max_tokens_per_query": 3})
    (output,) = ranker.score(long, long, pooling_params=params, chat_template=TEMPLATE)
    text = tokenizer.decode(output.prompt_token_ids)
    query, doc = text.split(" document : ")
    query, doc = query.split(" query : ")[1], doc.split(" relevant")[0]
    assert long.startswith(query) and long.startswith(doc)
    assert [len(tokenizer.tokenize(part)) for part in (query, doc)] == [3, 4]
    (output,) = ranker.score(QUERY, "battery " * 200, chat_template=TEMPLATE, truncate_prompt_tokens=60)
    frame = tokenizer(templated(QUERY, ""))["input_ids"]
    assert len(output.prompt_token_ids) == 60
    assert output.prompt_token_ids[-8:] == frame[-8:] or output.prompt_token_ids[-5:] == frame[-5:]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            {"chat_template_kwargs": {"tokenize": True}},
            "chat_template_kwargs contains reserved keys that conflict with fixed scorer arguments: {'tokenize'}",
        ),
        ({"chat_template_kwargs": {"messages": []}}, "conflict with fixed scorer arguments: {'messages'}"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs must be a dict, got str"),
        ({"instruction": 7}, "instruction must be a str, got int"),
        ({"chat_template": "{{ raise_exception('both sides, please') }}"}, "both sides, please"),
        ({"chat_template": "{% for %}"}, "the chat template is not valid"),
        ({"chat_template": "missing.jinja"}, "no such file, and it is no template"),
    ],
)
def test_wrong_templates_and_variables(ranker: Any, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ranker.score(QUERY, DOCS[0], **call)
    assert message in str(caught.value)


def test_an_instruction_nobody_reads_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with llms.load(num_labels=1) as llm, caplog.at_level(logging.WARNING, "assay"):
        for _ in range(2):
            llm.score(QUERY, DOCS[:2], instruction="find batteries")
            llm.score(QUERY, DOCS[:2], instruction="find batteries", chat_template="{{ messages[1].content }}")
    assert caplog.text.count("no score template is in use") == 1
    assert caplog.text.count("the score template reads no instruction") == 1


def test_the_deprecated_separator_key_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    with llms.load(num_labels=1, hf_overrides={"use_pad_token": False}) as llm:
        with caplog.at_level(logging.WARNING, "assay"):
            llm.score(QUERY, DOCS[:2])
            llm.score(QUERY, DOCS[:2])
    assert caplog.text.count("use_pad_token has been deprecated") == 1
