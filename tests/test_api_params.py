from __future__ import annotations

import copy
import enum
import pickle
from typing import Any

import pytest

from assay import PoolerConfig, PoolingParams, ValidationError

SEQUENCE_TASKS = ("classify", "embed")
TOKEN_TASKS = ("token_classify", "token_embed")


@pytest.mark.parametrize("name", ["softmax", "activation", "normalize"])
@pytest.mark.parametrize("value", [True, False, None])
def test_removed_parameters_point_to_use_activation(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        PoolingParams(**{name: value})
    assert str(caught.value) == f"Parameter `{name}` was removed; use `use_activation` instead. (parameter={name})"


@pytest.mark.parametrize("task", ["score", "encode"])
def test_removed_tasks_are_refused(task: str) -> None:
    with pytest.raises(ValidationError, match=f"`{task}` task was removed") as caught:
        PoolingParams(task=task)
    assert caught.value.parameter == "task"


def test_unknown_parameters_are_type_errors() -> None:
    with pytest.raises(TypeError, match="use_activations"):
        PoolingParams(use_activations=True)  # type: ignore[call-arg]


def test_output_kind_must_be_final_only() -> None:
    class Kind(enum.Enum):
        DELTA = 1
        FINAL_ONLY = 2

    assert PoolingParams(output_kind=Kind.FINAL_ONLY).output_kind is Kind.FINAL_ONLY
    with pytest.raises(ValueError, match="For pooling output_kind has to be FINAL_ONLY, got "):
        PoolingParams(output_kind=Kind.DELTA)


def test_use_activation_must_be_a_bool() -> None:
    with pytest.raises(ValidationError, match="use_activation must be True, False or None, got 'yes'"):
        PoolingParams(use_activation="yes")  # type: ignore[arg-type]


def test_clone_is_deep() -> None:
    params = PoolingParams(extra_kwargs={"max_tokens_per_doc": 3}, returned_token_ids=[1])
    clone = params.clone()
    assert clone == params
    assert clone.extra_kwargs is not params.extra_kwargs
    assert clone.returned_token_ids is not params.returned_token_ids


@pytest.mark.parametrize("task", SEQUENCE_TASKS + TOKEN_TASKS)
@pytest.mark.parametrize(
    ("asked", "default", "result"),
    [(None, None, True), (None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_use_activation_precedence(task: str, asked: bool | None, default: bool | None, result: bool) -> None:
    params = PoolingParams(use_activation=asked)
    before = copy.deepcopy(params)
    assert params.resolved(task, PoolerConfig(use_activation=default)).use_activation is result
    assert params == before, "the caller's object is never changed"


@pytest.mark.parametrize("task", ["classify", "token_classify"])
def test_dimensions_are_for_embeddings_only(task: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PoolingParams(dimensions=8).resolved(task, PoolerConfig())
    expected = f"Task '{task}' only supports ['use_activation'] parameters, does not support ['dimensions'] parameters"
    assert str(caught.value) == expected


@pytest.mark.parametrize("task", SEQUENCE_TASKS + TOKEN_TASKS)
@pytest.mark.parametrize("field", [{"step_tag_id": 5}, {"returned_token_ids": [1, 2]}])
def test_step_parameters_need_step_pooling(task: str, field: dict[str, Any]) -> None:
    with pytest.raises(
        ValidationError, match=f"Task {task} only supports .*does not support \\['{next(iter(field))}'\\]"
    ):
        PoolingParams(**field).resolved(task, PoolerConfig())


def test_step_parameters_are_filled_from_the_config() -> None:
    config = PoolerConfig(tok_pooling_type="STEP", step_tag_id=7, returned_token_ids=[1, 2])
    params = PoolingParams().resolved("token_classify", config)
    assert (params.step_tag_id, params.returned_token_ids) == (7, [1, 2])
    assert PoolingParams(step_tag_id=9).resolved("token_classify", config).step_tag_id == 9


def test_cache_default_depends_on_the_task() -> None:
    assert PoolingParams().resolved("classify", PoolerConfig()).skip_reading_prefix_cache is False
    assert PoolingParams().resolved("token_classify", PoolerConfig()).skip_reading_prefix_cache is True


def test_validation_error_text_and_pickle() -> None:
    assert str(ValidationError("bad")) == "bad"
    assert str(ValidationError("bad", parameter="x")) == "bad (parameter=x)"
    assert str(ValidationError("bad", value=3)) == "bad (value=3)"
    error = pickle.loads(pickle.dumps(ValidationError("bad", "x", 3)))
    assert (str(error), error.parameter, error.value) == ("bad (parameter=x, value=3)", "x", 3)
    assert isinstance(error, ValueError)
