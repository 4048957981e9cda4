from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import llms
import tiny_models
from assay import ClassificationRequestOutput, PoolerConfig, PoolingParams, PoolingRequestOutput, ValidationError
from assay.lora.request import LoRARequest

TEXTS = [text for text in tiny_models.single_texts() if text != "x" * 300]
OFF = PoolingParams(use_activation=False)


@pytest.fixture(scope="module")
def llm() -> Any:
    return llms.shared()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return llms.reference()[1]


def probs(llm: Any, prompts: Any, **kwargs: Any) -> list[list[float]]:
    return [output.outputs.probs for output in llm.classify(prompts, use_tqdm=False, **kwargs)]


def test_one_text(llm: Any, tokenizer: Any) -> None:
    (output,) = llm.classify("Hello, my name is")
    assert isinstance(output, ClassificationRequestOutput)
    assert output.prompt_token_ids == tokenizer("Hello, my name is")["input_ids"]
    assert output.outputs.num_classes == len(output.outputs.probs) == 3
    assert (output.finished, output.num_cached_tokens, output.error) == (True, 0, None)
    assert llms.close(output.outputs.probs, llms.logits("Hello, my name is").softmax(-1))
    assert output.outputs.label == llms.LABELS[int(llms.logits("Hello, my name is").argmax())]
    assert all(type(value) is float for value in output.outputs.probs)


def test_request_ids_count_up_as_decimals(llm: Any) -> None:
    ids = [int(output.request_id) for output in llm.classify(["a", "b", "c"]) + llm.classify("d")]
    assert ids == list(range(ids[0], ids[0] + 4))


def test_every_form_of_prompt_is_the_same_prompt(llm: Any, tokenizer: Any) -> None:
    text = "a battery that lasts two days"
    ids = tokenizer(text)["input_ids"]
    forms = [text, ids, {"prompt": text}, {"prompt_token_ids": ids}]
    outputs = llm.classify(forms)
    assert [output.prompt_token_ids for output in outputs] == [ids] * 4
    assert len({tuple(output.outputs.probs) for output in outputs}) == 1
    for form in forms:
        (alone,) = llm.classify(form)
        assert alone.outputs == outputs[0].outputs
    assert probs(llm, ids) == probs(llm, [ids])


def test_logits_match_transformers(llm: Any) -> None:
    texts = [text for text in TEXTS if len(llms.reference()[1](text)["input_ids"]) <= 128]
    assert len(texts) > 50
    for text, ours in zip(texts, probs(llm, texts, pooling_params=OFF), strict=True):
        assert llms.close(ours, llms.logits(text)), text


def test_use_activation(llm: Any) -> None:
    default, on, off = (
        probs(llm, TEXTS[:20], pooling_params=PoolingParams(use_activation=f), truncate_prompt_tokens=-1)
        for f in (None, True, False)
    )
    assert default == on
    assert all(a != b for a, b in zip(on, off, strict=True))
    assert llms.close(torch.tensor(off).softmax(-1), torch.tensor(on))


def test_params_may_differ_per_prompt_in_one_batch(llm: Any) -> None:
    flags = [None, True, False] * 10
    given = [None if flag is None else PoolingParams(use_activation=flag) for flag in flags]
    mixed = probs(llm, ["same text"] * 30, pooling_params=given)
    on, off = probs(llm, "same text")[0], probs(llm, "same text", pooling_params=OFF)[0]
    assert mixed == [off if flag is False else on for flag in flags]
    with pytest.raises(ValidationError, match=r"The lengths of prompts \(2\) and params \(1\) must be the same\."):
        llm.classify(["a", "b"], pooling_params=[OFF])


def test_callers_params_are_left_alone(llm: Any) -> None:
    params = PoolingParams(extra_kwargs={"compressed_token_type_ids": 2})
    before = params.clone()
    llm.classify(["a", "b"], pooling_params=params)
    llm.encode("a", params, pooling_task="classify")
    assert params == before


def test_scores_are_bitwise_the_same_alone_and_in_any_batch(llm: Any) -> None:
    texts = TEXTS * 3
    together = probs(llm, texts, truncate_prompt_tokens=-1)
    assert probs(llm, texts[::-1], truncate_prompt_tokens=-1) == together[::-1]
    for index in range(0, len(TEXTS), 7):
        assert probs(llm, texts[index], truncate_prompt_tokens=-1) == [together[index]]


def test_threads_may_share_one_llm(llm: Any) -> None:
    expected = probs(llm, TEXTS[20:60], truncate_prompt_tokens=-1)
    found: list[Any] = [None] * 4

    def call(slot: int) -> None:
        found[slot] = probs(llm, TEXTS[20:60], truncate_prompt_tokens=-1)

    threads = [threading.Thread(target=call, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [expected] * 4


def test_token_types_come_only_through_extra_kwargs(llm: Any) -> None:
    model, tokenizer = llms.reference()
    encoded = tokenizer("a question", "an answer", return_tensors="pt")
    ids, types = encoded["input_ids"][0].tolist(), encoded["token_type_ids"][0].tolist()
    plain = torch.zeros_like(encoded["token_type_ids"])
    with torch.no_grad():
        without = model(encoded["input_ids"], token_type_ids=plain).logits[0]
        with_types = model(**encoded).logits[0]
    assert not llms.close(without, with_types)
    assert llms.close(probs(llm, [ids], pooling_params=OFF)[0], without)
    params = PoolingParams(use_activation=False, extra_kwargs={"compressed_token_type_ids": types.index(1)})
    assert llms.close(probs(llm, [ids], pooling_params=params)[0], with_types)


def test_encode_is_the_untyped_form(llm: Any) -> None:
    (typed,) = llm.classify("Hello, my name is")
    (output,) = llm.encode("Hello, my name is", pooling_task="classify")
    assert type(output) is PoolingRequestOutput
    data = output.outputs.data
    assert (data.dtype, data.device.type, tuple(data.shape)) == (torch.float32, "cpu", (3,))
    assert data.tolist() == typed.outputs.probs


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("embed", "Embedding API is not supported by this model.+"),
        ("token_embed", "Embedding API is not supported by this model.+"),
        ("token_classify", "Try switching the model's pooling_task via.+"),
        ("plugin", "No IOProcessor plugin installed."),
        (None, "pooling_task required for `LLM.encode`"),
    ],
)
def test_encode_with_another_task(llm: Any, task: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        llm.encode("a", pooling_task=task)


def test_other_methods_on_a_classifier(llm: Any) -> None:
    with pytest.raises(ValueError, match=r"Embedding API is not supported by this model\."):
        llm.embed("a")
    with pytest.raises(ValueError, match=r"Try switching the model's pooling_task via `PoolerConfig"):
        llm.reward("a")
    with pytest.raises(ValueError, match=r"^Scoring API is only enabled for num_labels == 1\.$"):
        llm.score("a", "b")


@pytest.mark.parametrize(
    ("kwargs", "prompts", "message"),
    [
        ({}, [], "You must pass at least one prompt"),
        ({}, [[]], "The decoder prompt cannot be empty"),
        ({"truncate_prompt_tokens": 129}, "a", "Please request a smaller truncation size."),
        ({"tokenization_kwargs": {"truncate_prompt_tokens": 0}}, "a", "The decoder prompt cannot be empty"),
        ({"lora_request": LoRARequest("x", 1, "/x")}, "a", "but LoRA is not enabled!"),
        ({}, [[10_000]], "Token id 10000 is out of vocabulary"),
        (
            {},
            ["fine", {"prompt": "a", "multi_modal_data": {"image": 1}}],
            "MultiModalParam is not supported for BertFor",
        ),
        ({"pooling_params": PoolingParams(dimensions=4)}, "a", "Task 'classify' only supports"),
        ({"pooling_params": PoolingParams(step_tag_id=4)}, "a", "Task classify only supports"),
        ({"pooling_params": PoolingParams(task="embed")}, "a", "You cannot overwrite param.task='embed'"),
    ],
)
def test_wrong_calls_are_value_errors(llm: Any, kwargs: dict[str, Any], prompts: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        llm.classify(prompts, **kwargs)
    assert message in str(caught.value)
    assert len(llm.classify("still works")) == 1


def test_too_long_without_truncation(llm: Any) -> None:
    with pytest.raises(ValidationError, match=r"Please reduce the length of the input prompt.*parameter=input_tokens"):
        llm.classify(["short", "word " * 127])


@pytest.mark.parametrize("keep", [5, 10, -1])
@pytest.mark.parametrize("way", ["argument", "kwargs"])
def test_truncation(llm: Any, tokenizer: Any, keep: int, way: str) -> None:
    text = "word " * 600
    kwargs: dict[str, Any] = {"truncate_prompt_tokens": keep}
    (output,) = llm.classify(text, **(kwargs if way == "argument" else {"tokenization_kwargs": kwargs}))
    size = 128 if keep == -1 else keep
    assert output.prompt_token_ids == tokenizer(text, truncation=True, max_length=size)["input_ids"]
    assert len(output.prompt_token_ids) == size


def test_progress_is_counted_per_prompt(llm: Any) -> None:
    updates: list[int] = []

    class Bar:
        def __init__(self, total: int, desc: str) -> None:
            assert (total, desc) == (50, "Processed prompts")

        def update(self, count: int) -> None:
            updates.append(count)

        def close(self) -> None:
            updates.append(0)

    llm.classify(["text"] * 50, use_tqdm=Bar)
    assert updates == [1] * 50 + [0]


def test_a_failing_progress_bar_aborts_the_call(llm: Any) -> None:
    class Bar:
        def __init__(self, **kwargs: Any) -> None:
            pass

        def update(self, count: int) -> None:
            raise KeyboardInterrupt

        def close(self) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        llm.classify(["text"] * 5000, use_tqdm=Bar)
    assert len(llm.classify("still works")) == 1


# ---- token classification ------------------------------------------------------------------------------------------


def test_token_classification() -> None:
    llm = llms.shared(llms.TOKENS)
    assert llm.pooling_task == "token_classify"
    for flag in (True, False):
        outputs = llm.encode(
            TEXTS[:40], PoolingParams(use_activation=flag), pooling_task="token_classify", truncate_prompt_tokens=-1
        )
        for text, output in zip(TEXTS, outputs, strict=False):
            theirs = llms.logits(text, head=llms.TOKENS, truncation=True, max_length=128)
            assert output.outputs.data.shape == (len(output.prompt_token_ids), 3)
            assert llms.close(output.outputs.data, theirs.softmax(-1) if flag else theirs)
    with pytest.raises(ValueError, match=r"is not supported by this model|Try switching"):
        llm.classify("a")


def test_reward_is_encode_with_token_classify() -> None:
    llm = llms.load(pooler_config=PoolerConfig(task="token_classify"))
    first, second = llm.reward(["a", "b c"]), llm.encode(["a", "b c"], pooling_task="token_classify")
    assert [output.outputs for output in first] == [output.outputs for output in second]
    assert first[0].outputs.data.shape == (len(first[0].prompt_token_ids), 3)
    with pytest.raises(ValueError, match=r'`PoolerConfig\(task="classify"\)`'):
        llm.classify("a")
