from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import reranker_tokenizers
from assay.chat import ChatOptions, render_chat
from assay.errors import ConfigError, ValidationError
from assay.templates import SHIPPED, Template, template_source

CHATML = """{% for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
TRIMMING = """{{ bos_token }}{% for message in messages %}
{% if message['role'] not in ['user', 'assistant', 'system'] %}
{{ raise_exception('unknown role ' + message['role']) }}
{% endif %}
<|start_header_id|>{{ message['role'] }}<|end_header_id|>

{{ message['content'] | trim }}<|eot_id|>
{% endfor %}
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}
"""
FEATURES = """{%- for message in messages %}
{%- if loop.index > 3 %}{% break %}{% endif %}
{%- if message.role == 'system' %}{% continue %}{% endif %}
{{ {'role': message.role, 'ä': [1, true, none]} | tojson(indent=2) }}
{%- generation %}{{ message.content }}{% endgeneration %}{{ eos_token }}
{%- endfor %}{{ tools is none }}{{ documents is none }}{{ greeting | default('no greeting') }}
"""
PARTS = """{% for message in messages %}{{ message.role }}:
{%- for part in message.content %}[{{ part.type }}]{{ part.text }}{% endfor %};{% endfor %}"""

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hi"}],
    [
        {"role": "system", "content": "be < brief & 'kind'"},
        {"role": "user", "content": "  spaces around  "},
        {"role": "assistant", "content": "naïve 😀\n\nline "},
    ],
    [{"role": "user", "content": str(turn)} for turn in range(5)],
]


def theirs(template: str, messages: list[dict[str, Any]], **kwargs: Any) -> str:
    tokenizer = reranker_tokenizers.llama3()
    text: str = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **kwargs)
    return text


def ours(template: str, messages: list[dict[str, Any]], options: ChatOptions = ChatOptions()) -> str:  # noqa: B008
    tokens = reranker_tokenizers.llama3().special_tokens_map
    return render_chat(Template(template, tokens), messages, options, "X").text


@pytest.mark.parametrize("template", [CHATML, TRIMMING, FEATURES], ids=["chatml", "trimming", "features"])
@pytest.mark.parametrize("messages", CHATS, ids=["one", "three", "five"])
@pytest.mark.parametrize("flag", [None, "add_generation_prompt", "continue_final_message"])
def test_chats_render_as_transformers_renders_them(template: str, messages: Any, flag: str | None) -> None:
    flags: dict[str, bool] = {} if flag is None else {flag: True}
    try:
        expected = theirs(template, messages, **flags)
    except ValueError:  # the final message is not printed as it is
        with pytest.raises(ValidationError, match="continue_final_message"):
            ours(template, messages, ChatOptions(**flags))  # type: ignore[arg-type]
        return
    assert ours(template, messages, ChatOptions(**flags)) == expected  # type: ignore[arg-type]


def test_no_mark_is_left_where_a_template_prints_a_message_twice() -> None:
    options = ChatOptions(continue_final_message=True)
    assert ours("{{ messages | tojson }}: {{ messages[-1].content }}.", CHATS[0], options) == (
        '[{"role": "user", "content": "hi"}]: hi'
    )


def test_variables_reach_the_template() -> None:
    options = ChatOptions(chat_template_kwargs={"greeting": "hello"})
    assert ours(FEATURES, CHATS[0], options) == theirs(FEATURES, CHATS[0], greeting="hello")
    assert Template("{{ a }}{% set b = 1 %}{{ b }}{{ messages }}").variables == {"a", "messages"}


def test_a_variable_may_have_the_name_of_an_argument() -> None:
    assert Template("{{ messages[0].content }} {{ name }}").render(CHATS[0], name="x", self=1) == "hi x"


def test_content_is_given_as_the_template_wants_it() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    plain = [{"role": "user", "content": "a"}]
    assert ours(PARTS, parts) == "user:[text]a[text]b;"
    assert ours(PARTS, plain) == "user:[text]a;"
    assert ours("{{ messages[0].content }}", parts) == "a\nb"
    assert ours("{{ messages[0].content }}", [{"role": "assistant", "content": None}]) == ""
    assert ours("{{ messages[0].content | length }}", parts, ChatOptions(content_format="openai")) == "2"
    assert ours(PARTS, plain, ChatOptions(continue_final_message=True)) == "user:[text]a"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ raise_exception('not these roles') }}", "not these roles"),
        ("{{ nothing.at_all }}", "nothing"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ raise_exception.__globals__.keys() }}", "unsafe"),
    ],
)
def test_what_a_template_raises_is_a_validation_error(source: str, message: str) -> None:
    with pytest.raises(ValidationError, match=f"the chat template failed: .*{message}"):
        ours(source, CHATS[0])


@pytest.mark.parametrize("source", ["{% for %}", "{{ 1 +", "{% unknown %}"])
def test_templates_that_do_not_compile_say_where(source: str) -> None:
    with pytest.raises(ValidationError, match="the chat template is not valid: line 1"):
        Template(source)


def test_a_template_is_a_file_a_shipped_one_or_the_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{{ 1 }}")
    assert template_source(path) == template_source(str(path)) == "{{ 1 }}"
    assert template_source("qwen3_reranker.jinja") == (SHIPPED / "qwen3_reranker.jinja").read_text()
    assert template_source("{{ messages }}") == "{{ messages }}"
    assert template_source("{{ 'long' }}" * 500) == "{{ 'long' }}" * 500
    with pytest.raises(ConfigError, match=r"no such file, and it is no template; shipped are bge-reranker-v2-gemma"):
        template_source("missing.jinja")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        template_source(path)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user", "content": 7}], "content must be str or a list of parts, got int"),
        ([{"role": 7, "content": "a"}], "a message must be a dict with `role` and `content`"),
        (["hi"], "a message must be a dict"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "MultiModalParam is not supported for X",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "a text part needs `text` (str)"),
        ([{"role": "user", "content": [7]}], "a content part must be"),
    ],
)
def test_messages_are_checked(messages: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ours(CHATML, messages)
    assert message in str(caught.value)


def test_chat_options_are_checked() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatOptions(add_generation_prompt=True, continue_final_message=True)
    assert str(caught.value) == "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
    with pytest.raises(ValidationError, match="chat_template_kwargs may not hold messages"):
        ChatOptions(chat_template_kwargs={"messages": []})
    with pytest.raises(ValidationError, match="content_format must be one of"):
        ChatOptions(content_format="xml")
