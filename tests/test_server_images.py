"""Images over HTTP: both shapes of parts, Jina's documents, echoes, usage, and refusals that are 400s."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import llms
import test_image_prompts as offline
import tiny_vision
from assay import LLM, PoolingParams, images
from assay.errors import MissingExtra
from assay.server.command_line import parse
from assay.server.settings import RequestPolicy, ServerSettings
from served import Client, scores, serving, shared_client, usage_of
from test_image_prompts import JINA, QWEN, A, B, C, content, data_url, folder, png
from tiny_vision import MARK, encode

NUM_SHOTS, SEED = 400, 5
NOT_AN_IMAGE = "data:image/png;base64,aGVsbG8="
CAT, DOG = data_url(A), data_url(B)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving({"vl": offline.llm(QWEN), "jina": offline.llm(JINA), "three": offline.llm("three")}) as server:
        yield server


@pytest.fixture(scope="module")
def guarded() -> Iterator[Client]:
    """One host, no local files, two images."""
    settings: dict[str, Any] = {"allowed_media_domains": ["images.example"], "limit_mm_per_prompt": {"image": 2}}
    with LLM(folder(QWEN), dtype="float32", **settings) as model, serving(model) as server:
        yield server


def part(url: str = CAT) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def parts(*each: Any) -> dict[str, Any]:
    return {"content": [words(item) if isinstance(item, str) else item for item in each]}


def user(*each: Any) -> list[dict[str, Any]]:
    return [{"role": "user", **parts(*each)}]


SHAPES: list[dict[str, Any]] = [
    part(),
    {"type": "image_url", "image_url": CAT},
    {"image_url": {"url": CAT}},
    {"image_url": CAT},
    {"type": "input_image", "image_url": CAT},
    {"type": "image", "image": CAT},
    {"type": "image_url", "image_url": {"url": CAT, "detail": "high"}, "uuid": None},
]


@contextmanager
def web(answer: Any = None) -> Iterator[str]:
    """A web server with one picture under every path; answer(handler) says otherwise."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if answer is not None and answer(self):
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(png(A))))
            self.end_headers()
            self.wfile.write(png(A))

        def log_message(self, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


# Scores


@pytest.mark.parametrize("keys", [("queries", "documents"), ("data_1", "data_2"), ("text_1", "text_2")])
def test_every_shape_of_part_scores_like_the_image_in_memory(client: Client, keys: tuple[str, str]) -> None:
    (expected,) = offline.scores(offline.llm(QWEN), content("which?", B), content(A))
    documents = [{"content": [shape]} for shape in SHAPES]
    reply = client.ok("/score", {"model": "vl", keys[0]: parts("which?", part(DOG)), keys[1]: documents})
    assert scores(reply) == [expected] * len(SHAPES)


def test_usage_counts_the_tokens_of_images(client: Client) -> None:
    documents = [parts(part()), "words", parts("both", part(data_url(C)))]
    reply = client.ok("/score", {"model": "vl", "queries": parts(part(DOG)), "documents": documents})
    texts = [(MARK, [B, A]), ("words", [B]), (MARK + "both", [B, C])]
    num_tokens = sum(encode(offline.qwen_text(MARK, doc), images).input_ids.numel() for doc, images in texts)
    assert reply["usage"] == usage_of(num_tokens)
    assert num_tokens > 3 * 16 + 15 + 32


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_orders_images_and_echoes_documents(client: Client, path: str) -> None:
    documents: list[Any] = [
        "only words",
        parts(part()),
        {"text": "a picture", "image": DOG},
        {"image": CAT},
        {"text": "x"},
    ]
    expected = offline.scores(
        offline.llm(QWEN), content("which?", B), ["only words", content(A), content(B, "a picture"), content(A), "x"]
    )
    reply = client.ok(path, {"model": "vl", "query": parts("which?", part(DOG)), "documents": documents})
    found = {result["index"]: result for result in reply["results"]}
    assert [found[index]["relevance_score"] for index in range(5)] == expected
    assert [result["relevance_score"] for result in reply["results"]] == sorted(expected, reverse=True)
    assert found[0]["document"] == {"text": "only words", "multi_modal": None}
    assert found[1]["document"] == {"text": None, "multi_modal": [part()]}
    assert found[2]["document"]["multi_modal"] == [{"type": "image", "image": DOG}, words("a picture")]
    assert found[3]["document"] == {"text": None, "multi_modal": [{"type": "image", "image": CAT}]}
    assert found[4]["document"] == {"text": "x", "multi_modal": None}


def test_jinas_form_of_queries_and_documents(client: Client) -> None:
    body = {"model": "jina", "query": {"image": DOG}, "documents": [{"image": CAT}, {"text": "words"}], "top_n": 1}
    (best,) = client.ok("/v1/rerank", body)["results"]
    expected = offline.scores(offline.llm(JINA), content(B), [content(A), "words"])
    assert best["relevance_score"] == max(expected)
    assert expected[best["index"]] == max(expected)


def test_limits_and_raw_scores_reach_calls_with_images(client: Client) -> None:
    body = {"model": "jina", "queries": "which?", "documents": [parts(part(), offline.LONG)]}
    cut = client.ok("/score", {**body, "max_tokens_per_doc": 9, "raw_scores": True})
    params = PoolingParams(use_activation=False, extra_kwargs={"max_tokens_per_doc": 9})
    assert scores(cut) == offline.scores(offline.llm(JINA), "which?", content(A, offline.LONG), pooling_params=params)
    truncated = client.ok("/score", {**body, "truncate_prompt_tokens": 40, "return_details": True})
    assert truncated["usage"]["prompt_tokens"] <= 40
    assert truncated["data"][0]["truncated"] is True


def test_infinity_and_voyage_replies_hold_images_too(client: Client) -> None:
    for more in ({"raw_scores": True}, {"raw_scores": False, "return_documents": True}, {"top_k": 1}):
        body = {"model": "jina", "query": "q", "documents": ["words", {"image": CAT}], **more}
        reply = client.post("/rerank", body)
        assert reply.status_code == 200, reply.text
        assert len(reply.json().get("results") or reply.json()["data"]) >= 1


# Conversations


@pytest.mark.parametrize("path", ["/classify", "/pooling", "/invocations"])
def test_a_conversation_is_the_prompt_of_its_template(client: Client, path: str) -> None:
    reply = client.ok(path, {"model": "three", "messages": user("what is", part(), "this?")})
    encoded = encode(offline.CHAT_SEEN.format(f"what is{MARK}this?"), [A])
    (item,) = reply["data"]
    logits = offline.reference("three").logits(encoded)
    values = item["data"] if path == "/pooling" else item["probs"]
    assert llms.close(values, logits.softmax(0))
    assert reply["usage"]["prompt_tokens"] == encoded.input_ids.numel()


def test_tokenize_shows_every_token_of_an_image(client: Client) -> None:
    body = {"model": "three", "messages": user("what is", part(), "this?"), "add_generation_prompt": False}
    reply = client.ok("/tokenize", {**body, "return_token_strs": True})
    encoded = encode(offline.CHAT_SEEN.format(f"what is{MARK}this?"), [A])
    assert reply["tokens"] == encoded.input_ids[0].tolist() and reply["count"] == len(reply["tokens"])
    assert reply["token_strs"].count("<|image_pad|>") == offline.NUM_TOKENS[id(A)]


def test_tokenize_refuses_bad_images(client: Client) -> None:
    for messages in (user(part(NOT_AN_IMAGE)), user(part("http://127.0.0.1:1/x")), user({"type": "video_url"})):
        client.error("/tokenize", {"model": "three", "messages": messages})


@pytest.mark.parametrize("path", ["/classify", "/pooling", "/tokenize"])
def test_a_final_message_that_ends_with_an_image_breaks_nothing(client: Client, path: str) -> None:
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    reply = client.post(path, {"model": "three", "messages": user("look", part()), **flags})
    assert reply.status_code in (200, 400), reply.text


def test_the_string_format_puts_images_in_front(client: Client) -> None:
    settings = ServerSettings(requests=RequestPolicy(content_format="string"))
    with serving(offline.llm("three"), settings) as server:
        reply = server.ok("/classify", {"messages": user("what is", part(), "this?")})
    encoded = encode(offline.CHAT_SEEN.format(f"{MARK}what is\nthis?"), [A])
    assert reply["usage"]["prompt_tokens"] == encoded.input_ids.numel()
    assert llms.close(reply["data"][0]["probs"], offline.reference("three").logits(encoded).softmax(0))


# Refusals


def calls(bad: Any) -> list[tuple[str, dict[str, Any]]]:
    """Bodies with a part at every place where one may stand."""
    return [
        ("/score", {"queries": parts(bad), "documents": "d"}),
        ("/score", {"queries": "q", "documents": ["d", parts("x", bad)]}),
        ("/rerank", {"query": parts(bad), "documents": ["a", "b"]}),
        ("/v1/rerank", {"query": "q", "documents": ["a", parts(bad)]}),
        ("/v2/rerank", {"query": "q", "documents": [parts(part("data:,x")), parts(bad)]}),
        ("/classify", {"messages": user("x", bad)}),
        ("/pooling", {"messages": user(bad)}),
    ]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (part("http://127.0.0.1:1/none.png"), "image must be at an allowed domain (images.example)"),
        (part("https://example.com/a.png"), "image must be at an allowed domain (images.example)"),
        (part("file:///etc/hostname"), "allowed_local_media_path is not set"),
        (part("data:image/png;base64,@@@"), "base64"),
        (part("data:image/png,abc"), "base64"),
        (part(NOT_AN_IMAGE), "known format"),
        (part(CAT[:-60]), "image must be"),
        (part("ftp://example.com/a.png"), "image must be"),
        (part(""), "image must be"),
        ({"type": "image_url", "image_url": {"url": 5}}, "image must be"),
        ({"type": "image_url", "image_url": {}}, "needs 'image_url'"),
        ({"type": "image_pil", "image_pil": [[[0, 0, 0]]]}, "image must be"),
        ({"type": "video_url", "video_url": {"url": "http://x/v.mp4"}}, "no part of type 'video_url'"),
        ({"type": "audio_url", "audio_url": {"url": "http://x/v.wav"}}, "no part of type 'audio_url'"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "no part of type 'input_audio'"),
        ({"type": "image_embeds", "image_embeds": "AAAA"}, "no part of type 'image_embeds'"),
    ],
)
def test_what_is_no_image_is_a_400(guarded: Client, bad: dict[str, Any], text: str) -> None:
    for path, body in calls(bad):
        if path == "/v2/rerank":
            guarded.error(path, body)
        else:
            assert text in guarded.error(path, body)["message"], (path, body)


def test_a_bad_image_is_named_by_its_prompt(guarded: Client) -> None:
    body = {"query": "q", "documents": ["a", parts(part()), parts(part(NOT_AN_IMAGE)), "b"]}
    error = guarded.error("/rerank", body)
    assert "in prompts[2]" in error["message"] and error["param"] == "image_url"


def test_urls_that_cannot_be_fetched_are_400s(client: Client) -> None:
    def missing(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(500)
        handler.end_headers()
        return True

    with web(missing) as url:
        for bad in (f"{url}/a.png", "http://127.0.0.1:1/a.png", "http://no-such-host.invalid/a.png", "http://"):
            client.error("/score", {"model": "vl", "queries": "q", "documents": parts(part(bad))})


def test_images_are_fetched_for_clients(client: Client) -> None:
    with web() as url:
        reply = client.ok("/score", {"model": "vl", "queries": "q", "documents": [parts(part(f"{url}/a.png"))]})
    assert scores(reply) == offline.scores(offline.llm(QWEN), "q", content(A))


def test_too_many_images_are_a_400(guarded: Client) -> None:
    wanted = "At most 2 image(s) may be provided in one prompt."
    for path, body in (
        ("/score", {"queries": "q", "documents": parts(part(), part(), part())}),
        ("/score", {"queries": parts(part(), part()), "documents": parts(part())}),
        ("/rerank", {"query": parts(part(), part(), part()), "documents": ["a"]}),
        ("/classify", {"messages": user(part(), part()) + user(part())}),
        ("/tokenize", {"messages": user(part(), part(), part())}),
    ):
        assert wanted in guarded.error(path, body)["message"], path
    guarded.ok("/score", {"queries": parts(part()), "documents": [parts(part())] * 3})


def test_more_placeholders_than_images_are_a_400(client: Client) -> None:
    for body in (
        {"queries": "q", "documents": parts(MARK)},
        {"queries": f"{MARK}q", "documents": "d"},
        {"queries": "q", "documents": parts(MARK + MARK, part())},
    ):
        client.error("/score", {"model": "vl", **body})
    client.error("/classify", {"model": "three", "input": f"{MARK}what?"})
    client.error("/classify", {"model": "three", "input": [tiny_vision.token_id("<|image_pad|>")]})
    client.error("/classify", {"model": "three", "messages": user(f"{MARK}what?")})


def test_a_text_model_refuses_images_by_the_known_message() -> None:
    server = shared_client(num_labels=1)
    wanted = "MultiModalParam is not supported for BertForSequenceClassification"
    for shape in SHAPES:
        for path, body in calls(shape)[:4]:
            assert server.error(path, body)["message"].startswith(wanted)
    for documents in ([{"image": CAT}], [{"text": "a", "image": CAT}]):
        assert server.error("/rerank", {"query": "q", "documents": documents})["message"].startswith(wanted)
    assert server.error("/rerank", {"query": {"image": CAT}, "documents": ["d"]})["message"].startswith(wanted)


def test_long_input_takes_no_images_among_documents(client: Client) -> None:
    for document in (parts(part(), "x"), {"image": CAT}, parts("text in parts")):
        body = {"model": "vl", "query": "q", "documents": ["d", document], "long_input": {"stride": 200}}
        assert "plain texts" in client.error("/rerank", body)["message"]
    body = {"model": "three", "messages": user(part()), "long_input": {}}
    assert "conversation" in client.error("/classify", body)["message"]


def test_long_input_reads_a_text_beside_an_image_of_the_query(client: Client) -> None:
    body = {"model": "vl", "query": parts(part()), "documents": ["short", offline.LONG * 4], "long_input": {}}
    results = {result["index"]: result for result in client.ok("/rerank", body)["results"]}
    assert results[0]["relevance_score"] == offline.scores(offline.llm(QWEN), content(A), "short")[0]


@pytest.mark.parametrize("option", ["mm_processor_kwargs", "media_io_kwargs"])
def test_media_options_of_a_request_are_refused(client: Client, option: str) -> None:
    body = {"model": "three", "messages": user(part()), option: {"max_pixels": 512}}
    for path in ("/classify", "/pooling"):
        assert f"Per-request {option} are disabled" in client.error(path, body)["message"]
    if option == "mm_processor_kwargs":
        body = {"model": "vl", "queries": "q", "documents": parts(part()), option: {"max_pixels": 512}}
        assert f"Per-request {option} are disabled" in client.error("/score", body)["message"]


def test_trusted_media_options_are_not_dropped_without_a_word() -> None:
    """Where clients are trusted with them they still have no effect, which would be another score than asked for."""
    settings = ServerSettings(requests=RequestPolicy(trust_media_options=True))
    with serving(offline.llm(QWEN), settings) as server:
        for path, body in calls(part())[:4]:
            error = server.error(path, {**body, "mm_processor_kwargs": {"max_pixels": 512}})
            assert "mm_processor_kwargs" in error["message"]


def test_tokenize_refuses_options_of_media_too(client: Client) -> None:
    body = {"model": "three", "messages": user("x"), "media_io_kwargs": {"image": {"mode": "L"}}}
    assert "media_io_kwargs are disabled" in client.error("/tokenize", body)["message"]


def test_prompts_longer_than_the_model_count_images() -> None:
    with LLM(folder(QWEN), dtype="float32", max_model_len=200) as model, serving(model) as server:
        body = {"queries": "q", "documents": parts(*[part(data_url(C))] * 6)}
        assert "maximum context length is 200 tokens" in server.error("/score", body)["message"]
        assert "no room" in server.error("/score", {**body, "truncate_prompt_tokens": -1})["message"]


def test_without_pillow_the_reply_says_what_is_missing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may run without it, and its operator reads the client's report."""

    def missing() -> Any:
        raise MissingExtra("images need the package pillow: pip install 'assay[images]'")

    monkeypatch.setattr(images, "_pil_image_module", missing)
    reply = client.post("/score", {"model": "vl", "queries": "q", "documents": parts(part())})
    assert reply.status_code in (400, 501) and "pillow" in reply.json()["error"]["message"]
    client.ok("/score", {"model": "vl", "queries": "q", "documents": "only words"})


# Beside each other


def test_a_bad_image_harms_no_request_beside_it(client: Client) -> None:
    good = {"model": "vl", "queries": parts(part()), "documents": ["a", parts(part(DOG))]}
    bad = {"model": "vl", "queries": "q", "documents": ["a", parts(part(NOT_AN_IMAGE))]}
    expected = scores(client.ok("/score", good))

    async def together() -> list[Any]:
        return await asyncio.gather(*(client.http.post("/score", json=body) for body in [good, bad] * 8))

    replies = client.run(together())
    assert [reply.status_code for reply in replies] == [200, 400] * 8
    assert all(scores(reply.json()) == expected for reply in replies[::2])


def test_images_that_are_slow_to_come_do_not_hold_up_others(client: Client) -> None:
    """The picture comes when a request of words has been answered; by then many others wait for it."""
    answered = threading.Event()
    in_time: list[bool] = []

    def slow(handler: BaseHTTPRequestHandler) -> bool:
        in_time.append(answered.wait(4))
        return False

    async def together(url: str) -> tuple[Any, list[Any]]:
        waiting = [
            asyncio.ensure_future(
                client.http.post("/score", json={"model": "vl", "queries": "q", "documents": parts(part(f"{url}/{n}"))})
            )
            for n in range(8)
        ]
        await asyncio.sleep(0.2)
        quick = await client.http.post("/score", json={"model": "vl", "queries": "q", "documents": ["d"]})
        answered.set()
        return quick, await asyncio.gather(*waiting)

    with web(slow) as url:
        quick, replies = client.run(together(url))
    assert quick.status_code == 200
    assert {reply.status_code for reply in replies} == {200}
    assert all(in_time), "a request of words waited for another one's image"


# Flags


def test_flags_of_media_reach_the_model(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(C))
    settings = parse(
        [
            *(str(folder(QWEN)), "--dtype", "float32", "--allowed-local-media-path", str(tmp_path)),
            *("--allowed-media-domains", "images.example", "--limit-mm-per-prompt", '{"image": 1}'),
            *("--mm-processor-kwargs", '{"max_pixels": 512}'),
        ],
        "assay serve",
    )
    (spec,) = settings.models
    with LLM(spec.source, **spec.keywords) as model, serving(model, settings) as server:
        url = f"file://{tmp_path}/a.png"
        reply = server.ok("/score", {"queries": "q", "documents": parts(part(url))})
        assert reply["usage"]["prompt_tokens"] < encode(offline.qwen_text("q", MARK), [C]).input_ids.numel()
        for document, text in (
            (parts(part("http://127.0.0.1:1/a")), "allowed domain (images.example)"),
            (parts(part(url), part(url)), "At most 1 image(s)"),
            (parts(part("file:///etc/hostname")), "under allowed_local_media_path"),
        ):
            assert text in server.error("/score", {"queries": "q", "documents": document})["message"]


def test_dotted_flags_of_media_are_the_same() -> None:
    def keywords(*flags: str) -> Any:
        return parse(["m", *flags], "assay serve").models[0].keywords

    assert keywords("--limit-mm-per-prompt.image", "3", "--mm_processor_kwargs.max_pixels", "512") == keywords(
        "--limit_mm_per_prompt", '{"image": 3}', "--mm-processor-kwargs", '{"max_pixels": 512}'
    )


# Mutated bodies

ODD: list[Any] = [
    *(None, True, 0, -1, 2**70, 1.5, "", "x", MARK, "<|image_pad|>", "\ud800", [], {}, [[]], [0, 1], {"url": CAT}),
    *(NOT_AN_IMAGE, CAT, CAT[:-30], "data:", "data:;base64,", "data:image/png;base64,", "file:///", "file://x/y"),
    *("http://", "http://127.0.0.1:1/", "https://[::1", "http://\x00", "//x", {"image": CAT}, {"type": "image"}),
    *([part()], part(), {"content": []}, {"content": [part()]}, {"content": {}}, {"text": None, "image": 5}),
    *("image_url", "image_pil", "video_url", "image_embeds", "input_image", "text", "refusal"),
    {"type": "image_pil", "image_pil": [[[1, 2, 3]]]},
]


def base_bodies() -> list[tuple[str, dict[str, Any]]]:
    jina = {"query": {"image": CAT}, "documents": [{"image": DOG, "text": "x"}, "words", parts(part(), "x")]}
    return [
        *calls(part()),
        ("/rerank", jina),
        ("/v1/rerank", {**jina, "long_input": {}, "top_n": 2}),
        ("/score", {"data_1": [parts(shape) for shape in SHAPES[:2]], "data_2": [jina["query"], parts(MARK, part())]}),
        ("/score", {"queries": "q", "documents": parts(part()), "truncate_prompt_tokens": 30, "max_tokens_per_doc": 4}),
        ("/classify", {"messages": user(part(), "x"), "continue_final_message": True}),
        ("/pooling", {"messages": [*user("x", part()), {"role": "assistant", "content": "y"}]}),
        ("/tokenize", {"messages": user(part(), "x", part(DOG))}),
    ]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something in a body, from the outside in."""
    inner = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
    return [(*path, key) for key, _ in inner] + [place for key, item in inner for place in places(item, (*path, key))]


def mutated(body: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    body = copy.deepcopy(body)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = places(body)
        if not found:
            break
        *way, last = rng.choice(found)
        inside: Any = body
        for key in way:
            inside = inside[key]
        how = rng.randrange(4)
        if how == 0:
            del inside[last]
        elif how == 1 and isinstance(inside, list):
            inside.insert(last, copy.deepcopy(rng.choice(ODD)))
        elif how == 1:
            inside[rng.choice(("type", "text", "content", "image", "image_url", "url", "uuid"))] = rng.choice(ODD)
        elif how == 2 and isinstance(inside[last], str) and inside[last]:
            at = rng.randrange(len(inside[last]))
            inside[last] = inside[last][:at] + chr(rng.randrange(1, 300)) + inside[last][at + rng.randrange(3) :]
        else:
            inside[last] = copy.deepcopy(rng.choice(ODD))
    return body


@pytest.mark.parametrize("name", ["vl", "three"])
def test_no_mutated_body_breaks_the_server(client: Client, name: str) -> None:
    rng, bases = random.Random(SEED + len(name)), base_bodies()
    statuses: Counter[int] = Counter()
    broken: list[Any] = []

    async def fire(path: str, body: dict[str, Any]) -> None:
        reply = await client.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
        statuses[reply.status_code] += 1
        if reply.status_code >= 500:
            broken.append((path, json.dumps(body)[:500], reply.text[:300]))

    async def storm() -> None:
        for _ in range(NUM_SHOTS // 8):
            shots = [rng.choice(bases) for _ in range(8)]
            await asyncio.gather(*(fire(path, mutated({"model": name, **body}, rng)) for path, body in shots))

    client.run(storm())
    assert broken == []
    assert statuses[400] > NUM_SHOTS // 20 and (name == "three" or statuses[200] > NUM_SHOTS // 20)


def test_no_bytes_in_a_data_url_break_the_server(client: Client) -> None:
    rng, data = random.Random(SEED), png(tiny_vision.image(9, 7))

    async def fire(raw: bytes) -> int:
        url = "data:image/png;base64," + base64.b64encode(raw).decode()
        body = {"model": "vl", "queries": "q", "documents": parts(part(url))}
        reply = await client.http.post("/score", json=body)
        return reply.status_code

    async def storm() -> set[int]:
        seen = set()
        for _ in range(NUM_SHOTS // 2):
            raw = bytearray(data)
            for _ in range(rng.choice((1, 1, 2, 8))):
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            seen.add(await fire(bytes(raw[: rng.choice((len(raw), len(raw), rng.randrange(len(raw))))])))
        return seen

    assert client.run(storm()) <= {200, 400}
