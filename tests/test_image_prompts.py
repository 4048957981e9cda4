"""Images in prompts of `LLM.score`, `classify` and `encode`: ids, scores, order, limits, and what is refused."""

from __future__ import annotations

import base64
import gc
import io
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import llms
import tiny_vision
from assay import LLM, ConfigError, PoolerConfig, PoolingParams, UnsupportedModelError, ValidationError
from assay.image_patches import PixelGrid
from assay.llm.pairs import pair_prompts
from assay.media import ImageSource
from assay.models import qwen2_vl
from assay.scoring import ScoreLimits, ScoreText
from tiny_vision import MARK, Reference, encode, image, token_id, tokenizer

_root = tempfile.TemporaryDirectory(prefix="assay-image-prompts-")
RAW = PoolingParams(use_activation=False)
QWEN, JINA = "Qwen3-VL-Reranker-tiny", "jina"
OVERRIDES = {
    "architectures": ["Qwen3VLForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."
A, B, C = image(40, 24), image(16, 64, 5), image(64, 32, 7)
"""15, 16 and 32 tokens."""
NUM_TOKENS = {id(A): 15, id(B): 16, id(C): 32}
QUERY_FIRST = "{{ messages[0].content }} ## {{ messages[1].content }}"
DOCUMENT_FIRST = "{{ messages[1].content }} ## {{ messages[0].content }}"


@cache
def folder(name: str) -> Path:
    """QWEN: a language model as it is saved. JINA, and "three": Qwen2-VL with its head, and with three labels."""
    kind, head = {QWEN: ("Qwen3VL", "lm_head"), JINA: ("Qwen2VL", "jina"), "three": ("Qwen2VL", "score")}[name]
    return tiny_vision.make(Path(_root.name) / name, kind, head=head)


@cache
def llm(name: str) -> LLM:
    return LLM(folder(name), dtype="float32")


@cache
def plain_reranker(**overrides: Any) -> LLM:
    """One label and no recipe: pairs go through the tokenizer."""
    target = Path(_root.name) / "plain"
    if not target.exists():
        tiny_vision.make(target, "Qwen2VL", num_labels=1)
    return LLM(target, dtype="float32", hf_overrides=overrides or None)


@cache
def embedder() -> LLM:
    return LLM(folder(QWEN), runner="pooling", convert="embed", dtype="float32")


@cache
def reference(name: str) -> Reference:
    return Reference(folder(name), "Qwen3VL" if name == QWEN else "Qwen2VL")


def part(picture: Any) -> dict[str, Any]:
    return {"type": "image_pil", "image_pil": picture}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def content(*parts: Any) -> dict[str, Any]:
    return {"content": [words(each) if isinstance(each, str) else part(each) for each in parts]}


def url_part(url: str) -> dict[str, Any]:
    return {"content": [{"type": "image_url", "image_url": {"url": url}}]}


def png(picture: Any = A) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def data_url(picture: Any = A) -> str:
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()


def scores(model: LLM, query: Any, docs: Any, **kwargs: Any) -> list[float]:
    return [output.outputs.score for output in model.score(query, docs, use_tqdm=False, **kwargs)]


def qwen_text(query: str, doc: str, instruction: str = INSTRUCTION) -> str:
    return (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        f"<Instruct>: {instruction}<Query>:{query}\n<Document>:{doc}<|im_end|>\n<|im_start|>assistant\n"
    )


def qwen_score(encoded: Any) -> torch.Tensor:
    logits = reference(QWEN).lm_logits(encoded)
    return torch.softmax(logits[[token_id("no"), token_id("yes")]], 0)[1]


# What a side of a pair holds: as a caller writes it, its text with marks, its images.
SIDES: list[tuple[Any, str, list[Any]]] = [
    ("only words", "only words", []),
    (content(A), MARK, [A]),
    (content("both", B), MARK + "both", [B]),
    (content(A, "two of them", C), MARK * 2 + "two of them", [A, C]),
    (content(f"here {MARK} it is", B), f"here {MARK} it is", [B]),
    (content("one line", "another"), "one line\nanother", []),
    (content(f"and {MARK}", A, B), f"{MARK}and {MARK}", [A, B]),
]
TEXT, IMAGE, MIXED = SIDES[0], SIDES[1], SIDES[2]


@contextmanager
def web() -> Iterator[tuple[str, list[str]]]:
    """A web server with one picture under every path but those with "missing"; its URL, and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = b"" if "missing" in self.path else png(A)
            self.send_response(200 if data else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


CHAT_SEEN = "<|im_start|>user{}<|im_end|>"
STRINGS = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
"""A template that prints what it gets: it is given each message as one text."""


def ask(messages: list[Any], **kwargs: Any) -> Any:
    (output,) = llm("three").encode([messages], RAW, pooling_task="classify", use_tqdm=False, **kwargs)
    return output


# Scores of recognised rerankers


@pytest.mark.parametrize("query", SIDES)
def test_qwen3_vl_reranker_has_the_ids_and_scores_of_transformers(query: tuple[Any, str, list[Any]]) -> None:
    assert "recipe qwen3-vl-reranker" in llm(QWEN).summary
    outputs = llm(QWEN).score(query[0], [side[0] for side in SIDES], use_tqdm=False)
    for output, doc in zip(outputs, SIDES, strict=True):
        encoded = encode(qwen_text(query[1], doc[1]), query[2] + doc[2])
        assert output.prompt_token_ids == encoded.input_ids[0].tolist()
        assert llms.close(output.outputs.score, qwen_score(encoded))
    assert len({output.outputs.score for output in outputs}) == len(SIDES)


@pytest.mark.parametrize("query", SIDES)
def test_jina_reads_the_document_first_and_its_own_token_last(query: tuple[Any, str, list[Any]]) -> None:
    assert "recipe jina-reranker-m0" in llm(JINA).summary
    docs = [side[0] for side in SIDES]
    outputs = llm(JINA).score(query[0], docs, use_tqdm=False)
    raw = scores(llm(JINA), query[0], docs, pooling_params=RAW)
    for output, logit, doc in zip(outputs, raw, SIDES, strict=True):
        text = f"**Document**:\n{doc[1]}\n**Query**:\n{query[1]}"
        encoded = encode(text, doc[2] + query[2], (100,))
        assert output.prompt_token_ids == encoded.input_ids[0].tolist()
        expected = reference(JINA).logits(encoded)[0] - 2.65
        assert llms.close(logit, expected)
        assert llms.close(output.outputs.score, torch.sigmoid(expected))


def test_a_users_logit_mean_goes_before_jinas() -> None:
    with LLM(folder(JINA), dtype="float32", pooler_config=PoolerConfig(logit_mean=1.0)) as model:
        (raw,) = scores(model, *PAIR, pooling_params=RAW)
        (score,) = scores(model, *PAIR)
    (own,) = scores(llm(JINA), *PAIR, pooling_params=RAW)
    assert raw == pytest.approx(own + 2.65 - 1.0, abs=1e-4)
    assert score == pytest.approx(1 / (1 + np.exp(-raw)), abs=1e-6)


PAIR = (MIXED[0], IMAGE[0])


def test_the_overrides_of_the_recipe_give_the_same_scores(tmp_path: Path) -> None:
    other = shutil.copytree(folder(QWEN), tmp_path / "model")
    docs = [side[0] for side in SIDES]
    with LLM(other, dtype="float32", hf_overrides=OVERRIDES) as model:
        assert scores(model, MIXED[0], docs) == scores(llm(QWEN), MIXED[0], docs)
        assert model.llm_engine.model_config.architectures == OVERRIDES["architectures"]


def test_an_instruction_stands_in_the_prompt_beside_images() -> None:
    (output,) = llm(QWEN).score(*PAIR, instruction="Find twins.", use_tqdm=False)
    encoded = encode(qwen_text(MIXED[1], IMAGE[1], "Find twins."), MIXED[2] + IMAGE[2])
    assert output.prompt_token_ids == encoded.input_ids[0].tolist()
    assert llms.close(output.outputs.score, qwen_score(encoded))


def test_pairs_go_one_to_one_and_one_to_many() -> None:
    queries, docs = [TEXT[0], IMAGE[0], MIXED[0]], [MIXED[0], TEXT[0], IMAGE[0]]
    together = scores(llm(QWEN), queries, docs)
    assert together == [scores(llm(QWEN), query, doc)[0] for query, doc in zip(queries, docs, strict=True)]
    with pytest.raises(ValidationError, match="Input lengths must be either 1:1, 1:N or N:N"):
        llm(QWEN).score(queries, docs[:2])


@pytest.mark.parametrize("name", [QWEN, JINA])
@pytest.mark.parametrize("template", [QUERY_FIRST, DOCUMENT_FIRST])
def test_a_template_of_the_call_keeps_images_at_their_placeholders(name: str, template: str) -> None:
    query, doc = SIDES[3], SIDES[4]
    (output,) = llm(name).score(query[0], doc[0], chat_template=template, use_tqdm=False)
    first, second = (query, doc) if template == QUERY_FIRST else (doc, query)
    suffix = (100,) if name == JINA else ()
    encoded = encode(f"{first[1]} ## {second[1]}", first[2] + second[2], suffix)
    assert output.prompt_token_ids == encoded.input_ids[0].tolist()
    expected = torch.sigmoid(reference(name).logits(encoded)[0] - 2.65) if name == JINA else qwen_score(encoded)
    assert llms.close(output.outputs.score, expected)


def test_a_template_that_drops_a_side_with_images_is_refused() -> None:
    with pytest.raises(ValidationError, match="1 image tokens for 2 images"):
        llm(QWEN).score(*PAIR, chat_template="{{ messages[0].content }}", use_tqdm=False)
    with pytest.raises(ValidationError, match="2 image tokens for 1 images"):
        llm(QWEN).score("words", IMAGE[0], chat_template="{{ messages[1].content * 2 }}", use_tqdm=False)


@pytest.mark.parametrize("uses_separator", [True, False])
def test_pairs_without_a_template_are_one_text_with_images(uses_separator: bool) -> None:
    model = plain_reranker(use_sep_token=uses_separator)
    ours = Reference(Path(_root.name) / "plain", "Qwen2VL")
    (output,) = model.score(MIXED[0], SIDES[3][0], use_tqdm=False)
    encoded = encode(MIXED[1] + SIDES[3][1], MIXED[2] + SIDES[3][2])  # Qwen's tokenizer puts nothing in between
    assert output.prompt_token_ids == encoded.input_ids[0].tolist()
    assert llms.close(output.outputs.score, torch.sigmoid(ours.logits(encoded)[0]))


# Placeholders and counts


def test_more_placeholders_than_images_are_refused() -> None:
    text = "Found more .* placeholders in input prompt than actual multimodal data items"
    for side in (content(MARK), content(f"{MARK} and {MARK}", A)):
        for call in ((side, "words"), ("words", side)):
            with pytest.raises(ValidationError, match=text):
                llm(QWEN).score(*call)


@pytest.mark.parametrize("side", [f"{MARK}what is this?", content("<|image_pad|>", A), content("<|image_pad|>")])
def test_a_side_that_names_an_image_it_does_not_hold_is_refused(side: Any) -> None:
    for name in (QWEN, JINA):
        for call in ((side, "words"), ("words", side), (side, content(B))):
            with pytest.raises(ValidationError):
                llm(name).score(*call, use_tqdm=False)


@pytest.mark.parametrize(
    "prompt",
    [
        f"{MARK}no picture",
        {"prompt": f"{MARK}no picture"},
        {"prompt": f"{MARK}none", "multi_modal_data": {}},
        {"prompt": f"{MARK}none", "multi_modal_data": {"image": None}},
        {"prompt": f"{MARK}none", "multi_modal_data": {"image": []}},
        {"prompt": "no mark", "multi_modal_data": {"image": A}},
        {"prompt": f"{MARK}{MARK}", "multi_modal_data": {"image": A}},
        {"prompt": f"{MARK}", "multi_modal_data": {"image": [A, B]}},
        {"prompt": f"{MARK}{MARK}", "multi_modal_data": {"image": [A, None]}},
        {"prompt_token_ids": [5, 6], "multi_modal_data": {"image": A}},
        {"prompt_token_ids": [5, token_id("<|image_pad|>")]},
        [5, token_id("<|image_pad|>")],
    ],
)
def test_images_and_image_tokens_of_a_prompt_must_be_as_many(prompt: Any) -> None:
    with pytest.raises(ValidationError):
        llm("three").classify([prompt], use_tqdm=False)


@pytest.mark.parametrize("template", [None, STRINGS])
@pytest.mark.parametrize("said", [f"{MARK}what?", [words(f"{MARK}what?")], [words(MARK * 2), part(A)]])
def test_a_conversation_that_names_an_image_it_does_not_hold_is_refused(said: Any, template: str | None) -> None:
    with pytest.raises(ValidationError):
        ask([{"role": "user", "content": said}], chat_template=template)


def test_limit_mm_per_prompt_counts_both_sides_of_a_pair() -> None:
    with LLM(folder(QWEN), dtype="float32", limit_mm_per_prompt={"image": 2}) as model:
        wanted = "At most 2 image\\(s\\) may be provided in one prompt"
        assert scores(model, content(A), content(B)) == scores(llm(QWEN), content(A), content(B))
        for call in [(content(A, A, A), "x"), ("x", content(A, B, C)), (content(A), content(B, C))]:
            with pytest.raises(ValidationError, match=wanted):
                model.score(*call, use_tqdm=False)
        with pytest.raises(ValidationError, match=wanted):
            model.classify({"prompt": MARK * 3, "multi_modal_data": {"image": [A, B, C]}}, use_tqdm=False)
        with pytest.raises(ValidationError, match=wanted):
            conversation = [{"role": "user", "content": [part(A)]}, {"role": "user", "content": [part(A), part(B)]}]
            model.encode([conversation], pooling_task="classify", use_tqdm=False)


def test_a_limit_of_none_at_all() -> None:
    with LLM(folder("three"), dtype="float32", limit_mm_per_prompt={"image": {"count": 0}}) as model:
        assert len(model.classify("words", use_tqdm=False)) == 1
        with pytest.raises(ValidationError, match="At most 0 image"):
            model.classify(picture_prompt(A), use_tqdm=False)


# Prompts of classify and encode


def picture_prompt(*pictures: Any, text: str | None = None) -> dict[str, Any]:
    return {"prompt": MARK * len(pictures) + "so" if text is None else text, "multi_modal_data": {"image": [*pictures]}}


def logits(prompts: Any, model: LLM | None = None, **kwargs: Any) -> list[Any]:
    outputs = (model or llm("three")).encode(prompts, RAW, pooling_task="classify", use_tqdm=False, **kwargs)
    return [tuple(output.outputs.data.tolist()) for output in outputs]


def test_one_image_needs_no_list_and_ids_stand_for_text() -> None:
    (expected,) = logits(picture_prompt(A))
    ids = tokenizer()(MARK + "so")["input_ids"]
    forms = [
        {"prompt": MARK + "so", "multi_modal_data": {"image": A}},
        {"prompt": MARK + "so", "multi_modal_data": {"image": (A,)}},
        {"prompt": MARK + "so", "multi_modal_data": {"image": np.asarray(A)}},
        {"prompt": MARK + "so", "multi_modal_data": {"image": torch.tensor(np.asarray(A))}},
        {"prompt": MARK + "so", "multi_modal_data": {"image": data_url(A)}},
        {"prompt_token_ids": ids, "multi_modal_data": {"image": A}},
        {"prompt_token_ids": np.array(ids), "multi_modal_data": {"image": [A]}, "prompt": "not read"},
        {"prompt": MARK + "so", "multi_modal_data": {"image": A, "video": None}, "multi_modal_uuids": {"image": ["x"]}},
    ]
    assert logits(forms) == [expected] * len(forms)
    (output,) = llm("three").encode(forms[5], pooling_task="classify", use_tqdm=False)
    assert output.prompt_token_ids == encode(MARK + "so", [A]).input_ids[0].tolist()
    assert llms.close(expected, reference("three").logits(encode(MARK + "so", [A])))


def test_a_text_pair_may_have_images() -> None:
    pair = {"text": MARK + "a", "text_pair": "b" + MARK, "multi_modal_data": {"image": [A, B]}}
    (output,) = llm("three").encode(pair, RAW, pooling_task="classify", use_tqdm=False)
    encoded = encode(f"{MARK}ab{MARK}", [A, B])
    assert output.prompt_token_ids == encoded.input_ids[0].tolist()


def test_prompts_with_and_without_images_share_a_call() -> None:
    prompts = ["words", picture_prompt(A), [5, 6, 7], picture_prompt(A, B), {"prompt": "more words"}]
    together = logits(prompts)
    assert together == [logits([prompt])[0] for prompt in prompts]
    assert together[::-1] == logits(prompts[::-1])


def test_the_same_ids_with_other_pixels_do_not_share_a_result() -> None:
    other = image(40, 24, 9)
    prompts = [picture_prompt(A), picture_prompt(other), picture_prompt(A), picture_prompt(A.copy())]
    first, second, third, copy = logits(prompts)
    assert first == third == copy and first != second
    (ids, other_ids) = (out.prompt_token_ids for out in llm("three").classify(prompts[:2], use_tqdm=False))
    assert ids == other_ids


def test_a_result_cache_tells_images_apart() -> None:
    other, turned = image(40, 24, 9), image(24, 40)
    calls = [[picture_prompt(each)] for each in (A, other, turned, A, data_url(A), other)]
    calls += [[picture_prompt(A, other)], [picture_prompt(other, A)]]
    with LLM(folder("three"), dtype="float32", result_cache_bytes=1 << 20) as model:
        found = [logits(call, model)[0] for call in calls]
    assert found == [logits(call)[0] for call in calls]
    assert found[0] == found[3] == found[4] and found[1] == found[5]
    assert len(set(found)) == 5


def test_a_query_image_is_fetched_once_however_many_documents() -> None:
    with web() as (url, asked):
        docs = [f"document {number}" for number in range(40)]
        found = scores(llm(QWEN), url_part(f"{url}/a.png"), docs)
        assert asked == ["/a.png"]
        assert found == scores(llm(QWEN), content(A), docs)


# Conversations


def seen(output: Any, text: str, pictures: list[Any]) -> bool:
    encoded = encode(text, pictures)
    return bool(
        output.prompt_token_ids == encoded.input_ids[0].tolist()
        and llms.close(output.outputs.data, reference("three").logits(encoded))
    )


def test_images_of_a_conversation_stand_where_their_parts_do() -> None:
    messages = [
        {"role": "user", "content": [words("first"), part(A), words("then"), {"type": "image", "image": B}]},
        {"role": "user", "content": "only words"},
        {"role": "user", "content": [part(C)]},
    ]
    text = "".join(map(CHAT_SEEN.format, [f"first{MARK}then{MARK}", "only words", MARK]))
    assert seen(ask(messages), text, [A, B, C])
    assert seen(ask(messages, add_generation_prompt=True), text + "<|im_start|>assistant", [A, B, C])


def test_a_template_of_strings_gets_images_in_front_of_the_text_or_at_their_marks() -> None:
    messages = [
        {"role": "user", "content": [words("what"), part(A), words("is it?")]},
        {"role": "user", "content": [words(f"at {MARK} its mark"), part(B)]},
    ]
    text = f"<user>{MARK}what\nis it?<user>at {MARK} its mark"
    assert seen(ask(messages, chat_template=STRINGS), text, [A, B])


@pytest.mark.parametrize("template", [None, STRINGS])
def test_a_final_message_with_an_image_is_continued(template: str | None) -> None:
    messages = [{"role": "user", "content": [part(A), words("it is a")]}]
    head = "<user>" if template else "<|im_start|>user"
    output = ask(messages, continue_final_message=True, chat_template=template)
    assert seen(output, f"{head}{MARK}it is a", [A])


@pytest.mark.parametrize("template", [None, STRINGS])
def test_a_final_message_that_ends_with_an_image_is_continued_or_refused(template: str | None) -> None:
    messages = [{"role": "user", "content": [words("look at"), part(A)]}]
    try:
        output = ask(messages, continue_final_message=True, chat_template=template)
    except ValidationError as err:
        assert "continue_final_message" in str(err)
        return
    text = f"<user>{MARK}look at" if template else f"<|im_start|>userlook at{MARK}"
    assert seen(output, text, [A])


def test_a_template_that_shows_no_images_is_refused() -> None:
    with pytest.raises(ValidationError, match="0 image tokens for 1 images"):
        blind = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
        ask([{"role": "user", "content": [words("look"), part(A)]}], chat_template=blind)


# Embeddings


def test_embeddings_of_images_are_those_of_transformers() -> None:
    prompts = [picture_prompt(A), picture_prompt(B, C), "words"]
    outputs = embedder().embed(prompts, use_tqdm=False)
    for output, (text, pictures) in zip(outputs, [("so", [A]), ("so", [B, C]), ("words", [])], strict=True):
        last = reference(QWEN).hidden_states(encode(MARK * len(pictures) + text, pictures))[-1]
        assert llms.close(output.outputs.embedding, last / last.norm())


def test_a_bi_encoder_scores_images_by_cosine() -> None:
    model, docs = embedder(), [IMAGE, MIXED, TEXT, SIDES[3]]
    query, *rest = (
        torch.tensor(model.embed(picture_prompt(*side[2], text=side[1]), use_tqdm=False)[0].outputs.embedding)
        for side in [MIXED, *docs]
    )
    outputs = model.score(MIXED[0], [side[0] for side in docs], use_tqdm=False)
    for output, doc, other in zip(outputs, docs, rest, strict=True):
        assert llms.close(output.outputs.score, torch.nn.functional.cosine_similarity(query, other, dim=0))
        pads = [model.get_tokenizer().pad_token_id] if model.get_tokenizer().pad_token_id is not None else []
        ids = [encode(side[1], side[2]).input_ids[0].tolist() for side in (MIXED, doc)]
        assert output.prompt_token_ids == ids[0] + pads + ids[1]
    limited = PoolingParams(extra_kwargs={"max_tokens_per_doc": 1, "max_tokens_per_query": 1})
    parts = [side for side in docs if side is not TEXT]
    assert scores(model, MIXED[0], [side[0] for side in parts], pooling_params=limited) == scores(
        model, MIXED[0], [side[0] for side in parts]
    )


# Lengths

LONG = "many words of a long story about the sea and the sun " * 40


def test_truncation_cuts_text_and_leaves_images_whole() -> None:
    whole = encode(MARK + LONG, [A]).input_ids[0].tolist()
    prompt = picture_prompt(A, text=MARK + LONG)
    for keep in (18, 40, 100):
        (output,) = llm("three").encode(prompt, pooling_task="classify", truncate_prompt_tokens=keep, use_tqdm=False)
        assert output.prompt_token_ids == whole[:keep]
    left = {"truncate_prompt_tokens": 50, "truncation_side": "left"}
    behind = picture_prompt(A, text=LONG + MARK)
    (output,) = llm("three").encode(behind, pooling_task="classify", tokenization_kwargs=left, use_tqdm=False)
    assert output.prompt_token_ids == encode(LONG + MARK, [A]).input_ids[0].tolist()[-50:]


def test_truncation_that_would_lose_an_image_is_refused() -> None:
    model, task = llm("three"), {"pooling_task": "classify", "use_tqdm": False}
    with pytest.raises(ValidationError, match="0 image tokens for 1 images after it was cut"):
        model.encode(picture_prompt(A, text=LONG + MARK), truncate_prompt_tokens=60, **task)
    for keep in (1, 10, 14):
        with pytest.raises(ValidationError, match=f"truncate_prompt_tokens={keep} leaves no room for text"):
            model.encode(picture_prompt(A), truncate_prompt_tokens=keep, **task)
    with pytest.raises(ValidationError, match="leaves no room") as caught:
        model.encode(["words", picture_prompt(C)], truncate_prompt_tokens=20, **task)
    assert caught.value.__notes__ == ["in prompts[1]"]


@pytest.mark.parametrize("name", [QWEN, JINA])
def test_a_pair_is_cut_at_the_text_of_its_document(name: str) -> None:
    query, doc = content("which?", B), content(A, LONG)
    (whole,) = llm(name).score(query, content(A, "many words of a long story"), use_tqdm=False)
    limit = len(whole.prompt_token_ids)
    (cut,) = llm(name).score(query, doc, truncate_prompt_tokens=limit, use_tqdm=False)
    assert cut.prompt_token_ids == whole.prompt_token_ids
    assert cut.outputs.score == whole.outputs.score
    with pytest.raises(ValidationError, match="no room"):
        llm(name).score(query, doc, truncate_prompt_tokens=31, use_tqdm=False)


def test_the_length_that_is_refused_counts_the_tokens_of_images() -> None:
    with LLM(folder("three"), dtype="float32", max_model_len=40) as model:
        length = len(encode(MARK + "so", [C]).input_ids[0])
        assert length <= 40 and len(model.classify(picture_prompt(C), use_tqdm=False)) == 1
        length = len(encode(MARK * 2 + "so", [C, A]).input_ids[0])
        wanted = f"maximum context length is 40 tokens. However, your prompt contains {length} input tokens"
        with pytest.raises(ValidationError, match=wanted) as caught:
            model.classify(["x", picture_prompt(C, A)], use_tqdm=False)
        assert caught.value.__notes__ == ["in prompts[1]"]
        with pytest.raises(ValidationError, match="no room"):
            model.classify(picture_prompt(C, A), truncate_prompt_tokens=-1, use_tqdm=False)


def test_max_tokens_per_doc_counts_text_and_never_loses_an_image() -> None:
    limit = PoolingParams(extra_kwargs={"max_tokens_per_doc": 6})
    (output,) = llm(QWEN).score("q", content(A, LONG), pooling_params=limit, use_tqdm=False)
    (ids,) = [tokenizer()(MARK + LONG)["input_ids"][:6]]
    encoded = encode(qwen_text("q", tokenizer().decode(ids)), [A])
    assert output.prompt_token_ids == encoded.input_ids[0].tolist()
    for doc in (content(LONG + MARK, A), content(A, B, C, "text")):
        with pytest.raises(ValidationError, match="cut an image off"):
            llm(QWEN).score("q", doc, pooling_params=limit, use_tqdm=False)


def test_a_cut_query_does_not_lose_its_image_to_a_document_that_names_one() -> None:
    limit = PoolingParams(extra_kwargs={"max_tokens_per_query": 3})
    with pytest.raises(ValidationError):
        llm(QWEN).score(content(f"many words and then {MARK}", A), f"see {MARK}", pooling_params=limit, use_tqdm=False)


def test_padding_stands_behind_images() -> None:
    kwargs = {"padding": "max_length", "max_length": 64}
    (output,) = llm("three").encode(
        picture_prompt(A), pooling_task="classify", tokenization_kwargs=kwargs, use_tqdm=False
    )
    ids = encode(MARK + "so", [A]).input_ids[0].tolist()
    pad = llm("three").get_tokenizer().pad_token_id
    assert output.prompt_token_ids == ids + [pad] * (64 - len(ids))


def test_token_types_are_refused_beside_images_as_beside_text() -> None:
    params = PoolingParams(extra_kwargs={"compressed_token_type_ids": 2})
    for prompt in ("some words here", picture_prompt(A)):
        with pytest.raises(ValidationError, match="compressed_token_type_ids=2 needs token type 1"):
            llm("three").encode(prompt, params, pooling_task="classify", use_tqdm=False)


# Where images come from


def test_pixels_from_everywhere_give_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "a picture.png").write_bytes(png(A))
    with web() as (url, _), LLM(folder("three"), dtype="float32", allowed_local_media_path=tmp_path) as model:
        sources = [
            A,
            data_url(A),
            f"{url}/x",
            (tmp_path / "a picture.png").as_uri(),
            f"file://{tmp_path}/a picture.png",
        ]
        assert len(set(logits([picture_prompt(source) for source in sources], model))) == 1


def test_both_shapes_of_image_parts_and_short_ones_are_alike() -> None:
    url = data_url(A)
    parts: list[Any] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "image_url", "image_url": url},
        {"image_url": {"url": url}},
        {"image_url": url},
        {"type": "input_image", "image_url": url},
        {"type": "image", "image": url},
        {"type": "image", "url": url},
        {"image_pil": A},
        {"type": "image_pil", "image_pil": np.asarray(A)},
        {"type": "image_url", "image_url": url, "uuid": "x"},
    ]
    found = scores(llm(QWEN), "q", [{"content": [each]} for each in parts])
    assert found == [scores(llm(QWEN), "q", content(A))[0]] * len(parts)


def test_local_files_are_read_under_the_allowed_folder_only(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    for place in (inside, tmp_path):
        (place / "a.png").write_bytes(png(A))
    (inside / "link.png").symlink_to(tmp_path / "a.png")
    with LLM(folder(QWEN), dtype="float32", allowed_local_media_path=str(inside)) as model:
        expected = scores(llm(QWEN), "q", content(A))
        assert scores(model, "q", url_part(f"file://{inside}/a.png")) == expected
        for path in (tmp_path / "a.png", inside / "../a.png", inside / "link.png", "/etc/hostname", inside):
            with pytest.raises(ValidationError, match=r"allowed_local_media_path|regular file"):
                model.score("q", url_part(f"file://{path}"), use_tqdm=False)
        with pytest.raises(ValidationError, match="allowed_local_media_path is not set"):
            llm(QWEN).score("q", url_part(f"file://{inside}/a.png"), use_tqdm=False)


def test_hosts_outside_the_allowed_domains_are_refused() -> None:
    with web() as (url, asked):
        with LLM(folder(QWEN), dtype="float32", allowed_media_domains=["example.com"]) as model:
            with pytest.raises(ValidationError, match=r"allowed domain \(example.com\)"):
                model.score("q", url_part(f"{url}/a.png"), use_tqdm=False)
        with LLM(folder(QWEN), dtype="float32", allowed_media_domains=[]) as model:
            with pytest.raises(ValidationError, match="allowed domain"):
                model.score("q", url_part(f"{url}/a.png"), use_tqdm=False)
        assert asked == []
        with LLM(folder(QWEN), dtype="float32", allowed_media_domains=["127.0.0.1"]) as model:
            assert scores(model, "q", url_part(f"{url}/a.png")) == scores(llm(QWEN), "q", content(A))
            with pytest.raises(ValidationError, match="status 200, got 404"):
                model.score("q", url_part(f"{url}/missing"), use_tqdm=False)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("data:image/png;base64,%%%", "image"),
        ("data:image/png;base64,aGVsbG8=", "known format"),
        ("not a url", "image must be"),
        ("", "image"),
        (17, "image must be"),
        (np.zeros((4, 4), np.uint8), "uint8"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (data_url(A)[:-80], "image"),
        (image(1600, 4), "200"),
        (["a", "b"], "image"),
        ({"url": "x"}, "image"),
    ],
)
def test_a_broken_image_names_its_prompt(source: Any, text: str) -> None:
    with pytest.raises(ValidationError, match=text) as caught:
        llm(QWEN).score("q", ["words", content(A), {"content": [{"type": "image", "image": source}]}], use_tqdm=False)
    assert caught.value.__notes__ == ["in prompts[2]"]
    with pytest.raises(ValidationError, match=text) as caught:
        prompts = [picture_prompt(A), {"prompt": MARK, "multi_modal_data": {"image": [source]}}]
        llm("three").classify(prompts, use_tqdm=False)
    assert caught.value.__notes__ == ["in prompts[1]"]
    assert caught.value.parameter == "image_url"


def test_a_broken_image_of_a_query_is_a_validation_error() -> None:
    with pytest.raises(ValidationError, match="known format"):
        llm(QWEN).score(url_part("data:image/png;base64,aGVsbG8="), ["a", "b"], use_tqdm=False)


# Settings


def test_mm_processor_kwargs_change_how_many_tokens_an_image_takes() -> None:
    with LLM(folder("three"), dtype="float32", mm_processor_kwargs={"max_pixels": 512}) as model:
        (small,) = model.encode(picture_prompt(C), pooling_task="classify", use_tqdm=False)
    (large,) = llm("three").encode(picture_prompt(C), pooling_task="classify", use_tqdm=False)
    pad = token_id("<|image_pad|>")
    assert large.prompt_token_ids.count(pad) == NUM_TOKENS[id(C)]
    assert 0 < small.prompt_token_ids.count(pad) <= 8


@pytest.mark.parametrize(
    "settings",
    [
        {"allowed_local_media_path": "/no/such/folder"},
        {"allowed_local_media_path": 5},
        {"allowed_media_domains": "example.com"},
        {"allowed_media_domains": [5]},
        {"allowed_media_domains": 5},
        {"limit_mm_per_prompt": 3},
        {"limit_mm_per_prompt": {"image": -1}},
        {"limit_mm_per_prompt": {"image": "3"}},
        {"limit_mm_per_prompt": {"image": True}},
        {"limit_mm_per_prompt": {"image": None}},
        {"limit_mm_per_prompt": {"imgae": 3}},
        {"mm_processor_kwargs": "max_pixels"},
        {"mm_processor_kwargs": {"max_pixels": "many"}},
        {"mm_processor_kwargs": {"max_pixel": 512}},
        {"mm_processor_kwargs": {"max_pixels": 0}},
    ],
)
def test_settings_that_are_none_are_config_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings)).split("_")[0]):
        LLM(folder("three"), dtype="float32", **settings)


@pytest.mark.parametrize("value", ["soon", "0", "-1", "inf", "nan"])
def test_a_fetch_timeout_that_is_none_is_a_config_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VLLM_IMAGE_FETCH_TIMEOUT", value)
    with pytest.raises(ConfigError, match="VLLM_IMAGE_FETCH_TIMEOUT must be"):
        LLM(folder("three"), dtype="float32")


def test_int8_is_refused_by_name() -> None:
    with pytest.raises((ConfigError, UnsupportedModelError), match="int8"):
        LLM(folder("three"), quantization="int8")


def test_a_gpu_is_refused_by_name() -> None:
    weights: Any = SimpleNamespace(device=SimpleNamespace(is_cuda=True))
    nothing: Any = None
    with pytest.raises(UnsupportedModelError, match="use device='cpu'"):
        qwen2_vl.FAMILY.backbone.load(weights, "", nothing, "float32", max_model_len=8, reads_one_token=True)


# What is refused


def test_text_models_refuse_images_by_the_known_message() -> None:
    model, wanted = llms.shared(num_labels=1), "MultiModalParam is not supported for BertForSequenceClassification"
    for call in [("q", content(A)), (url_part(data_url(A)), "d"), ("q", {"content": [{"image_url": data_url(A)}]})]:
        with pytest.raises(ValidationError, match=wanted):
            model.score(*call, use_tqdm=False)
    with pytest.raises(ValidationError, match=wanted):
        model.classify({"prompt": "x", "multi_modal_data": {"image": A}}, use_tqdm=False)
    with pytest.raises(ValidationError, match=wanted):
        model.classify([[{"role": "user", "content": [part(A)]}]], chat_template=STRINGS, use_tqdm=False)


@pytest.mark.parametrize(
    ("refused", "name"),
    [
        ({"type": "video_url", "video_url": {"url": "http://x/v.mp4"}}, "video_url"),
        ({"video_url": "http://x/v.mp4"}, "video_url"),
        ({"type": "video", "video": "http://x/v.mp4"}, "video"),
        ({"type": "audio_url", "audio_url": {"url": "http://x/a.wav"}}, "audio_url"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "input_audio"),
        ({"type": "image_embeds", "image_embeds": "AAAA"}, "image_embeds"),
        ({"image_embeds": None}, "image_embeds"),
        ({"type": "file", "file": {}}, "file"),
    ],
)
def test_other_media_are_refused_by_name(refused: dict[str, Any], name: str) -> None:
    wanted = f"takes texts and images \\(image_url\\), no part of type '{name}'"
    for call in (({"content": [words("x"), refused]}, "d"), ("q", {"content": [part(A), refused]})):
        with pytest.raises(ValidationError, match=wanted):
            llm(QWEN).score(*call, use_tqdm=False)
    with pytest.raises(ValidationError, match=wanted):
        ask([{"role": "user", "content": [refused]}])


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "image_url"},
        {"type": "image_url", "image_url": None},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": {"url": None}},
        {"type": "image"},
        {"type": "text"},
        {"type": "text", "text": 5},
        {"type": 5},
        {},
        7,
        None,
    ],
)
def test_what_is_no_part_is_refused(broken: Any) -> None:
    with pytest.raises(ValidationError, match=r"needs|must be"):
        llm(QWEN).score("q", {"content": [part(A), broken]}, use_tqdm=False)
    with pytest.raises(ValidationError, match=r"needs|must be"):
        ask([{"role": "user", "content": [broken]}])


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"video": [[A, B]]}, "video"),
        ({"audio": [np.zeros(9)]}, "audio"),
        ({"image": A, "video": [A]}, "video"),
        ({"image_embeds": torch.zeros(2, 64)}, "image_embeds"),
        ([A], "multi_modal_data must be a dict"),
        (A, "multi_modal_data must be a dict"),
    ],
)
def test_other_media_of_a_prompt_are_refused_by_name(data: Any, name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        llm("three").classify([{"prompt": MARK, "multi_modal_data": data}], use_tqdm=False)


@pytest.mark.parametrize("option", ["mm_processor_kwargs", "media_io_kwargs"])
def test_media_options_of_a_prompt_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValidationError, match=f"{option} of a prompt is not supported"):
        llm("three").classify({**picture_prompt(A), option: {"max_pixels": 512}}, use_tqdm=False)


def test_without_a_tokenizer_ids_with_images_still_work() -> None:
    ids = tokenizer()(MARK + "so")["input_ids"]
    with LLM(folder("three"), dtype="float32", skip_tokenizer_init=True) as model:
        prompt = {"prompt_token_ids": ids, "multi_modal_data": {"image": A}}
        assert logits(prompt, model) == logits(prompt)
        with pytest.raises(ValidationError, match="skip_tokenizer_init"):
            model.classify(picture_prompt(A), use_tqdm=False)


def test_calls_of_many_threads_get_what_each_would_get_alone() -> None:
    prompts = [picture_prompt(image(40, 24, seed), text=f"{MARK}number {seed}") for seed in range(6)] + ["words"]
    alone = [logits(prompt) for prompt in prompts]
    with LLM(folder("three"), dtype="float32", result_cache_bytes=1 << 20) as model, ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda prompt: logits(prompt, model), prompts * 2)) == alone * 2


def test_the_two_halves_of_a_pair_do_not_swap_their_images() -> None:
    for name in (QWEN, JINA):
        here, there = scores(llm(name), content(A), content(B)), scores(llm(name), content(B), content(A))
        assert here != there
        assert scores(llm(name), content(f"{MARK} x", A), content(B)) != scores(
            llm(name), content(f"{MARK} x", B), content(A)
        )


def test_conversations_and_token_rows_of_an_embedder_take_images() -> None:
    with LLM(
        folder(QWEN), runner="pooling", dtype="float32", convert="embed", pooler_config=PoolerConfig(task="token_embed")
    ) as model:
        (output,) = model.encode([picture_prompt(A)], pooling_task="token_embed", use_tqdm=False)
    encoded = encode(MARK + "so", [A])
    rows = reference(QWEN).hidden_states(encoded)
    assert output.outputs.data.shape == rows.shape
    assert llms.close(output.outputs.data, rows / rows.norm(dim=1, keepdim=True))
    (chat,) = embedder().embed([[{"role": "user", "content": [part(A), words("a cat")]}]], use_tqdm=False)
    last = reference(QWEN).hidden_states(encode(CHAT_SEEN.format(f"{MARK}a cat"), [A]))[-1]
    assert llms.close(chat.outputs.embedding, last / last.norm())


def test_pixels_of_an_image_go_when_nobody_computes_with_them_unless_several_prompts_show_it() -> None:
    reads: list[Any] = []

    def read(value: Any) -> PixelGrid:
        reads.append(value)
        return PixelGrid(np.zeros((8, 8, 3), np.uint8), (1, 2, 2), 2, b"", lambda pixels: pixels.astype(np.float32))

    single, shared = ImageSource("one"), ImageSource("many", is_shared=True)
    for source in (single, shared):
        grid = source.grid(read)
        assert source.grid(read) is grid
        del grid
        gc.collect()
        source.grid(read)
    assert reads == ["one", "one", "many"]


def test_only_the_image_of_a_query_of_many_documents_is_shared() -> None:
    def sides(count: int) -> list[ScoreText]:
        return [ScoreText(MARK, True, (ImageSource(place),)) for place in range(count)]

    for num_queries, is_shared in ((1, True), (3, False)):
        queries, docs = sides(num_queries), sides(3)
        pair_prompts(queries, docs, ScoreLimits(), None, None, uses_separator=False)
        assert [source.is_shared for side in queries for source in side.images] == [is_shared] * num_queries
        assert not any(source.is_shared for side in docs for source in side.images)
