"""Conversations as prompts, on a classifier of texts: the ids are those of transformers' apply_chat_template."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import llms
from assay import LLM, PoolingParams, ValidationError

TEMPLATE = """{{ '[CLS] ' }}{% for message in messages %}
{{ message.role }}: {{ message.content }} {{ '[SEP] ' }}
{% endfor %}
{% if add_generation_prompt %}assistant:{% endif %}
{% if mood is defined %}{{ mood }}{% endif %}
"""
CHAT = [{"role": "user", "content": "how long does the battery last"}, {"role": "assistant", "content": "two days"}]
OTHER = [{"role": "system", "content": "be brief"}, *CHAT, {"role": "user", "content": "is it worth it"}]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A classifier whose tokenizer has a chat template."""
    folder = shutil.copytree(llms.folder(), tmp_path_factory.mktemp("chat") / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with LLM(folder) as model:
        yield model


def expected(llm: LLM, messages: Any, **kwargs: Any) -> list[int]:
    ids: list[int] = llm.get_tokenizer().apply_chat_template(messages, return_dict=False, **kwargs)
    return ids


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"add_generation_prompt": True},
        {"continue_final_message": True},
        {"chat_template_kwargs": {"mood": "cheerful"}},
    ],
    ids=str,
)
def test_ids_are_those_of_apply_chat_template(llm: LLM, flags: dict[str, Any]) -> None:
    outputs = llm.classify([CHAT, OTHER], **flags)
    kwargs = {**flags, **flags.get("chat_template_kwargs", {})}
    kwargs.pop("chat_template_kwargs", None)
    assert [output.prompt_token_ids for output in outputs] == [expected(llm, chat, **kwargs) for chat in (CHAT, OTHER)]


def test_a_conversation_is_its_rendered_text_without_further_special_tokens(llm: LLM) -> None:
    (output,) = llm.classify(CHAT)
    tokenizer = llm.get_tokenizer()
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    (as_text,) = llm.classify(text, tokenization_kwargs={"add_special_tokens": False})
    assert output.outputs == as_text.outputs
    assert output.prompt_token_ids.count(tokenizer.cls_token_id) == 1
    assert output.prompt_token_ids == as_text.prompt_token_ids
    (doubled,) = llm.classify(CHAT, add_special_tokens=True)
    assert doubled.prompt_token_ids == tokenizer(text)["input_ids"]
    (same,) = llm.classify(CHAT, tokenization_kwargs={"add_special_tokens": True})
    assert same.prompt_token_ids == doubled.prompt_token_ids
    with pytest.raises(ValidationError, match="contradict each other"):
        llm.classify(CHAT, add_special_tokens=False, tokenization_kwargs={"add_special_tokens": True})


def test_texts_still_get_special_tokens(llm: LLM) -> None:
    (output,) = llm.classify("two days")
    assert output.prompt_token_ids == llm.get_tokenizer()("two days")["input_ids"]
    (bare,) = llm.classify("two days", add_special_tokens=False)
    assert bare.prompt_token_ids == output.prompt_token_ids[1:-1]


def test_content_may_be_text_parts(llm: LLM) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "days"}]}]
    plain = [{"role": "user", "content": "two\ndays"}]
    assert llm.classify(parts)[0].prompt_token_ids == llm.classify(plain)[0].prompt_token_ids


def test_one_conversation_or_many(llm: LLM) -> None:
    (alone,) = llm.classify(CHAT)
    together = llm.classify([OTHER, CHAT, OTHER])
    assert len(together) == 3
    assert together[1].outputs == alone.outputs
    (as_tuple,) = llm.classify(tuple(CHAT))
    assert as_tuple.outputs == alone.outputs


def test_truncation_and_parameters_apply(llm: LLM) -> None:
    whole = expected(llm, OTHER)
    (cut,) = llm.classify(OTHER, truncate_prompt_tokens=5, tokenization_kwargs={"truncation_side": "left"})
    assert cut.prompt_token_ids == whole[-5:]
    (raw,) = llm.classify(CHAT, pooling_params=PoolingParams(use_activation=False))
    (scored,) = llm.classify(CHAT)
    assert sum(scored.outputs.probs) == pytest.approx(1.0) and raw.outputs != scored.outputs


def test_encode_takes_conversations(llm: LLM) -> None:
    (output,) = llm.encode(CHAT, pooling_task="classify", add_generation_prompt=True)
    assert output.prompt_token_ids == expected(llm, CHAT, add_generation_prompt=True)


def test_reward_takes_conversations() -> None:
    with llms.load(llms.TOKENS, chat_template=TEMPLATE) as llm:
        (output,) = llm.reward(CHAT)
        assert output.prompt_token_ids == expected(llm, CHAT, chat_template=TEMPLATE)
        assert output.outputs.data.shape == (len(output.prompt_token_ids), 3)
        (same,) = llm.encode(CHAT, pooling_task="token_classify")
        assert same.outputs == output.outputs


def test_which_template_is_used(llm: LLM, tmp_path: Path) -> None:
    mine = "{{ messages[-1].content }}"
    (output,) = llm.classify(CHAT, chat_template=mine, add_special_tokens=True)
    assert output.prompt_token_ids == llm.get_tokenizer()("two days")["input_ids"]
    path = tmp_path / "mine.jinja"
    path.write_text(mine)
    (from_file,) = llm.classify(CHAT, chat_template=path, add_special_tokens=True)
    assert from_file.prompt_token_ids == output.prompt_token_ids
    with llms.load(chat_template=path) as other:
        assert other.classify(CHAT, add_special_tokens=True)[0].prompt_token_ids == output.prompt_token_ids
        assert other.classify(CHAT, chat_template=TEMPLATE)[0].prompt_token_ids == expected(llm, CHAT)


def test_named_templates(tmp_path: Path) -> None:
    folder = shutil.copytree(llms.folder(), tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "additional_chat_templates" / "last.jinja").write_text("{{ messages[-1].content }}")
    with LLM(folder) as llm:
        assert llm.classify(CHAT)[0].prompt_token_ids == expected(llm, CHAT)
        (output,) = llm.classify(CHAT, chat_template="last", add_special_tokens=True)
        assert output.prompt_token_ids == llm.get_tokenizer()("two days")["input_ids"]


def test_what_is_refused(llm: LLM) -> None:
    with pytest.raises(ValidationError) as caught:
        llms.shared().classify(CHAT)
    assert str(caught.value) == (
        "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if "
        "the tokenizer does not define one."
    )
    with pytest.raises(ValidationError, match=r"Cannot set both `continue_final_message` and `add_generation_prompt`"):
        llm.classify(CHAT, add_generation_prompt=True, continue_final_message=True)
    with pytest.raises(ValidationError, match=r"prompts\[1\] is no conversation"):
        llm.classify([CHAT, "a text"])
    with pytest.raises(ValidationError, match="MultiModalParam is not supported for BertForSequenceClassification"):
        llm.classify([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])
    with pytest.raises(ValidationError, match=r"the chat template failed: .*no such role"):
        llm.classify(CHAT, chat_template="{{ raise_exception('no such role') }}")
    with pytest.raises(ValidationError, match="the chat template is not valid"):
        llms.load(chat_template="{% for %}")
    with pytest.raises(ValueError, match="no such file, and it is no template"):
        llms.load(chat_template="missing.jinja")
