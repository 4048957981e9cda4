"""Conversations over HTTP: one item, equal to the completion of the rendered template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import llms
from assay import LLM
from assay.server.settings import RequestPolicy, ServerSettings
from served import Client, serving, shared_client

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }}{{ sep }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
MESSAGES = [
    {"role": "user", "content": "Is the battery any good?"},
    {"role": "assistant", "content": "It lasts two days."},
    {"role": "user", "content": [{"type": "text", "text": "Would you buy it again?"}]},
]
RENDERED = "<user> Is the battery any good?\n<assistant> It lasts two days.\n<user> Would you buy it again?\n"
UNTRUSTED = (
    "Chat template is passed with request, but --trust-request-chat-template is not set. "
    "Refused request with untrusted chat template."
)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with llms.load(chat_template=TEMPLATE) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def client(llm: LLM) -> Iterator[Client]:
    with serving(llm) as server:
        yield server


def completion(client: Client, text: str, path: str = "/classify", **kwargs: Any) -> Any:
    return client.ok(path, {"input": text, "add_special_tokens": False, **kwargs})


@pytest.mark.parametrize("path", ["/classify", "/pooling", "/invocations"])
def test_chat_is_the_completion_of_the_rendered_template(client: Client, path: str) -> None:
    chat = client.ok(path, {"model": "m", "messages": MESSAGES})
    plain = completion(client, RENDERED, path)
    assert len(chat["data"]) == 1
    for reply in (chat, plain):
        del reply["id"], reply["created"]
    assert chat == plain


def test_chat_flags_change_the_prompt(client: Client) -> None:
    def probs(**kwargs: Any) -> Any:
        return client.ok("/classify", {"messages": MESSAGES, **kwargs})["data"][0]["probs"]

    def of(text: str, **kwargs: Any) -> Any:
        return completion(client, text, **kwargs)["data"][0]["probs"]

    assert probs(add_generation_prompt=True) == of(RENDERED + "<assistant> ")
    assert probs(continue_final_message=True) == of(RENDERED[:-1])
    assert probs(add_special_tokens=True) == of(RENDERED, add_special_tokens=True)
    assert probs(chat_template_kwargs={"sep": "!"}) == of(RENDERED.replace("\n", "!\n"))
    assert probs(truncate_prompt_tokens=6) == of(RENDERED, truncate_prompt_tokens=6)
    both = {"messages": MESSAGES, "add_generation_prompt": True, "continue_final_message": True}
    message = client.error("/classify", both)["message"]
    assert message == "Cannot set both `continue_final_message` and `add_generation_prompt` to True."


@pytest.mark.parametrize("where", ["top", "kwargs"])
def test_a_requests_template_needs_trust(llm: LLM, client: Client, where: str) -> None:
    own = "{% for message in messages %}{{ message.content }} {% endfor %}"
    extra: dict[str, Any] = (
        {"chat_template": own} if where == "top" else {"chat_template_kwargs": {"chat_template": own}}
    )
    body = {"messages": MESSAGES, **extra}
    assert client.error("/classify", body)["message"] == UNTRUSTED
    assert client.error("/tokenize", body)["message"] == UNTRUSTED
    with serving(llm, ServerSettings(requests=RequestPolicy(trust_chat_template=True))) as trusting:
        text = "Is the battery any good? It lasts two days. Would you buy it again? "
        assert trusting.ok("/classify", body)["data"] == completion(trusting, text)["data"]
        broken = trusting.error("/classify", {"messages": MESSAGES, "chat_template": "{{ messages[9].x }}"})
        assert broken["type"] == "BadRequestError"
        escape = {"messages": MESSAGES, "chat_template": "{{ ''.__class__.__mro__ }}"}
        assert trusting.post("/classify", escape).status_code == 400


def test_the_servers_default_variables_can_be_overridden(llm: LLM) -> None:
    policy = RequestPolicy(chat_template_kwargs={"sep": "?"})
    with serving(llm, ServerSettings(requests=policy)) as server:
        default = server.ok("/classify", {"messages": MESSAGES})["data"]
        assert default == completion(server, RENDERED.replace("\n", "?\n"))["data"]
        own = server.ok("/classify", {"messages": MESSAGES, "chat_template_kwargs": {"sep": ""}})["data"]
        assert own == completion(server, RENDERED)["data"]


def test_a_model_without_a_template_says_so() -> None:
    error = shared_client().error("/classify", {"messages": MESSAGES})
    assert error["message"].startswith("As of transformers v4.44, default chat template is no longer allowed")


@pytest.mark.parametrize("messages", [[], [{}], [{"content": "x"}], [{"role": 5, "content": "x"}], [{"prompt": "x"}]])
def test_other_messages_are_refused(client: Client, messages: Any) -> None:
    assert "role" in client.error("/classify", {"messages": messages})["message"]


def test_tokenize_of_a_chat_adds_the_generation_prompt(client: Client) -> None:
    tokens = client.ok("/tokenize", {"messages": MESSAGES})["tokens"]
    wanted = {"prompt": RENDERED + "<assistant> ", "add_special_tokens": False}
    assert tokens == client.ok("/tokenize", wanted)["tokens"]


def test_tokenize_of_a_chat_with_tools_equals_transformers() -> None:
    template = TEMPLATE + "{% if tools %}{{ tools | tojson }}{% else %}no tools{% endif %}"
    tool = {"type": "function", "function": {"name": "weather", "description": "Of a <city>", "parameters": {}}}
    _, tokenizer = llms.reference()
    messages = [{"role": "user", "content": "hi"}]
    with llms.load(chat_template=template) as llm, serving(llm) as client:
        for tools in (None, [], [tool], [tool, tool]):
            wanted = tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=template, add_generation_prompt=True, return_dict=False
            )
            assert client.ok("/tokenize", {"messages": messages, "tools": tools})["tokens"] == wanted
        for wrong in ("weather", [5], {"a": 1}):
            assert "tools" in client.error("/tokenize", {"messages": messages, "tools": wrong})["param"]


def test_score_templates_and_instructions_over_http() -> None:
    template = "{{ instruction or 'none' }} | {{ messages[0].content }} | {{ messages[1].content }}"
    with llms.load(num_labels=1, score_template=template) as ranker, serving(ranker) as client:
        for extra, first in (
            ({}, "none"),
            ({"instruction": "find it"}, "find it"),
            ({"chat_template_kwargs": {"instruction": "find that"}, "instruction": "not this"}, "find that"),
        ):
            reply = client.ok("/rerank", {"query": "q", "documents": ["d one", "d two"], **extra})
            expected = ranker.encode([f"{first} | q | d one", f"{first} | q | d two"], pooling_task="classify")
            found = {result["index"]: result["relevance_score"] for result in reply["results"]}
            assert [found[0], found[1]] == [output.outputs.data.item() for output in expected]
            assert reply["usage"]["prompt_tokens"] == sum(len(output.prompt_token_ids) for output in expected)
            scored = client.ok("/score", {"queries": "q", "documents": ["d one", "d two"], **extra})
            assert [item["score"] for item in scored["data"]] == [found[0], found[1]]
        reserved = {"query": "q", "documents": ["d"], "chat_template_kwargs": {"tokenize": True}}
        assert "reserved keys" in client.error("/rerank", reserved)["message"]
