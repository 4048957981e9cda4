from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from assay import ConfigError, PoolerConfig, ValidationError
from assay.config import EngineConfig
from assay.errors import AssayError

REMOVED = {
    "score": "`score` task was removed; use `classify` instead. (parameter=task)",
    "encode": "`encode` task was removed; use `token_embed` or `token_classify` instead. (parameter=task)",
}


@pytest.mark.parametrize(
    ("alias", "current"),
    [
        ({"logit_bias": 4.5}, {"logit_mean": 4.5}),
        ({"logit_scale": 4.0}, {"logit_sigma": 0.25}),
        ({"logit_bias": 1, "logit_scale": 2}, {"logit_mean": 1.0, "logit_sigma": 0.5}),
        ({"pooling_task": "embed"}, {"task": "embed"}),
        ({"pooling_type": "MEAN"}, {"seq_pooling_type": "MEAN"}),
        ({"pooling_type": "STEP"}, {"tok_pooling_type": "STEP"}),
        ({"pooling_type": "cls"}, {"seq_pooling_type": "CLS"}),
    ],
)
def test_aliases_give_the_same_config(alias: dict[str, Any], current: dict[str, Any]) -> None:
    assert PoolerConfig(**alias) == PoolerConfig(**current)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logit_bias": 1.0, "logit_mean": 1.0}, "Cannot set both `logit_bias` and `logit_mean`"),
        ({"logit_scale": 1.0, "logit_sigma": 1.0}, "Cannot set both `logit_scale` and `logit_sigma`"),
        ({"pooling_task": "embed", "task": "embed"}, "Cannot set both `pooling_task` and `task`"),
        ({"pooling_type": "CLS", "seq_pooling_type": "CLS"}, "Cannot set both `pooling_type` and `seq_pooling_type`"),
        ({"pooling_type": "ALL", "tok_pooling_type": "ALL"}, "Cannot set both `pooling_type` and `tok_pooling_type`"),
        ({"logit_sigma": 0}, "logit_sigma cannot be 0 (division by zero)"),
        ({"logit_scale": 0.0}, "logit_scale cannot be 0 (logit_sigma is 1 / logit_scale)"),
        ({"logit_mean": float("nan")}, "logit_mean must be a finite number, got nan"),
        ({"logit_mean": "4"}, "logit_mean must be a finite number, got '4'"),
        ({"pooling_type": "FIRST"}, "pooling_type must be one of CLS, LAST, MEAN, ALL, STEP, got 'FIRST'"),
        ({"seq_pooling_type": "ALL"}, "seq_pooling_type must be one of CLS, LAST, MEAN, got 'ALL'"),
        ({"use_activation": 1}, "use_activation must be True, False or None, got 1"),
        (
            {"activation": "os.system"},
            "Loading of activation functions is restricted to torch.nn.modules for security reasons",
        ),
        ({"normalize": True}, "Parameter `normalize` was removed; use `use_activation` instead. (parameter=normalize)"),
        ({"normalize": None}, "Parameter `normalize` was removed; use `use_activation` instead. (parameter=normalize)"),
        ({"task": "score"}, REMOVED["score"]),
        ({"pooling_task": "encode"}, REMOVED["encode"]),
        (
            {"enable_chunked_processing": True},
            "enable_chunked_processing is not supported: truncate or split long inputs",
        ),
    ],
)
def test_wrong_fields_are_value_errors(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        PoolerConfig(**fields)
    assert str(caught.value) == message
    assert isinstance(caught.value, AssayError)


def test_unknown_fields_are_type_errors() -> None:
    with pytest.raises(TypeError, match="softmax"):
        PoolerConfig(softmax=True)  # type: ignore[call-arg]


def test_removed_names_carry_the_parameter() -> None:
    with pytest.raises(ValidationError) as caught:
        PoolerConfig(normalize=False)
    assert caught.value.parameter == "normalize"


def test_is_frozen_and_can_be_replaced() -> None:
    config = PoolerConfig(pooling_type="MEAN", logit_bias=2.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.task = "embed"  # type: ignore[misc]
    changed = config.replace(task="embed")
    assert (changed.task, changed.seq_pooling_type, changed.logit_mean) == ("embed", "MEAN", 2.0)
    assert config.task is None


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "identity", "torch.nn.modules.activation.Tanh", None])
def test_activation_takes_names_and_torch_modules(name: str | None) -> None:
    assert PoolerConfig(activation=name).activation == name


@pytest.mark.parametrize("name", ["max_batch_tokens", "max_batch_size", "num_threads", "tokenizer_threads"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
def test_engine_budgets_are_positive_integers(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be an integer >= 1"):
        EngineConfig(**{name: value})
