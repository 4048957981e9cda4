from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from assay import ValidationError
from assay.inputs import plain_prompts


def plain(prompts: Any) -> Any:
    return plain_prompts(prompts, "BertForSequenceClassification")


@pytest.mark.parametrize(
    ("prompts", "result"),
    [
        ("text", ["text"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a", [1, 2]], ["a", [1, 2]]),
        ([[1, 2], "a"], [[1, 2], "a"]),
        ([[]], [[]]),
        ({"prompt": "a"}, ["a"]),
        ({"prompt_token_ids": [4, 5]}, [[4, 5]]),
        ({"prompt_token_ids": [4, 5], "prompt": "text they came from"}, [[4, 5]]),
        ([{"prompt": "a"}, "b", {"prompt_token_ids": (1,)}], ["a", "b", [1]]),
        ({"prompt": "a", "multi_modal_data": None, "mm_processor_kwargs": {}, "cache_salt": "tenant-a"}, ["a"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([1, 2]), [[1, 2]]),
        (torch.tensor([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ([np.array([1, 2]), torch.tensor([3])], [[1, 2], [3]]),
        ([np.int64(5), np.int64(6)], [[5, 6]]),
    ],
)
def test_every_form_of_prompt(prompts: Any, result: Any) -> None:
    found = plain(prompts)
    assert found == result
    assert all(type(value) is int for prompt in found if isinstance(prompt, list) for value in prompt)


def test_token_ids_are_copied() -> None:
    ids = [1, 2]
    plain(ids)[0].append(3)
    assert ids == [1, 2]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "You must pass at least one prompt"),
        ((), "You must pass at least one prompt"),
        (None, "prompts must be str, token ids, dict or a sequence of those, got NoneType"),
        (b"bytes", "prompts must be str, token ids, dict or a sequence of those, got bytes"),
        (5, "prompts must be str, token ids, dict or a sequence of those, got int"),
        ([None], "a prompt must be str, token ids or dict, got NoneType"),
        (["a", float("nan")], "a prompt must be str, token ids or dict, got float"),
        ([1, 2.5], "token ids must be integers, got float 2.5"),
        ([[1, "a"]], "token ids must be integers, got str 'a'"),
        ([True, False], "token ids must be integers, got bool True"),
        ({}, "a prompt dict needs `prompt` (str) or `prompt_token_ids` (ids), got keys []"),
        ({"prompt": 5}, "a prompt dict needs `prompt` (str) or `prompt_token_ids` (ids), got keys ['prompt']"),
        ({"prompt_token_ids": "12"}, "prompt_token_ids must be a list of integers, got str"),
        ({"data": 1}, "The 'data' field is only supported for the 'plugin' pooling task."),
        ({"prompt_embeds": torch.ones(2)}, "prompt_embeds is not supported: pass `prompt` or `prompt_token_ids`"),
        (
            {"prompt": "a", "multi_modal_data": {"image": 1}},
            "MultiModalParam is not supported for BertForSequenceClassification",
        ),
        ({"prompt": "a", "cache_salt": ""}, "Parameter 'cache_salt' must be a non-empty string if provided."),
        ({"prompt": "a", "cache_salt": 5}, "Parameter 'cache_salt' must be a non-empty string if provided."),
        (
            {"prompt": "a", "cache_salt": "a/b"},
            "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', '\\\\', or NUL.",
        ),
    ],
)
def test_wrong_prompts(prompts: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        plain(prompts)
    assert str(caught.value) == message


def test_the_error_names_the_prompt() -> None:
    with pytest.raises(ValidationError) as caught:
        plain(["a", "b", None])
    assert caught.value.__notes__ == ["in prompts[2]"]


def test_unread_keys_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "assay"):
        assert plain({"prompt": "a", "token_type_ids": [0, 1]}) == ["a"]
    assert "token_type_ids" in caplog.text
