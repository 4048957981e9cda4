from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
import torch

from assay import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    RequestError,
    ScoringOutput,
    ScoringRequestOutput,
)


def base(data: torch.Tensor, error: RequestError | None = None) -> PoolingRequestOutput[PoolingOutput]:
    return PoolingRequestOutput("7", PoolingOutput(data), [1, 2, 3], 0, True, error=error)


def test_classification_output() -> None:
    output = ClassificationOutput.from_base(PoolingOutput(torch.tensor([0.25, 0.5, 0.25])), ["a", "b", "c"])
    assert output.probs == [0.25, 0.5, 0.25]
    assert output.num_classes == 3
    assert output.label == "b"
    assert ClassificationOutput([0.5, 0.5], ["a", "b"]).label == "a", "the first of equals"
    assert ClassificationOutput([0.5, 0.5]).label is None
    assert output == ClassificationOutput([0.25, 0.5, 0.25])
    assert repr(output) == "ClassificationOutput(num_classes=3)"


@pytest.mark.parametrize("data", [torch.zeros(2, 2), torch.tensor(1.0)])
def test_shapes_are_checked(data: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"^pooled_data should be a 1-D probability vector$"):
        ClassificationOutput.from_base(PoolingOutput(data))
    with pytest.raises(ValueError, match=r"^pooled_data should be a 1-D embedding vector$"):
        EmbeddingOutput.from_base(PoolingOutput(data))


def test_scoring_output_squeezes() -> None:
    for data in (torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([[0.5]])):
        assert ScoringOutput.from_base(PoolingOutput(data)).score == 0.5
    with pytest.raises(ValueError, match=r"^pooled_data should be a scalar score$"):
        ScoringOutput.from_base(PoolingOutput(torch.zeros(2)))


def test_embedding_output() -> None:
    output = EmbeddingOutput.from_base(PoolingOutput(torch.tensor([1.0, 2.0])))
    assert (output.embedding, output.hidden_size) == ([1.0, 2.0], 2)


def test_pooling_output_equality_compares_all_elements() -> None:
    assert PoolingOutput(torch.ones(2)) == PoolingOutput(torch.ones(2))
    assert PoolingOutput(torch.ones(2)) != PoolingOutput(torch.tensor([1.0, 0.0]))
    assert PoolingOutput(torch.ones(2)) != PoolingOutput(torch.ones(3))
    assert PoolingOutput(torch.ones(2)) != "text"


@pytest.mark.parametrize("kind", [ClassificationRequestOutput, ScoringRequestOutput, EmbeddingRequestOutput])
def test_request_outputs_keep_the_request(kind: Any) -> None:
    output = kind.from_base(base(torch.tensor([0.5])))
    assert type(output) is kind
    assert isinstance(output, PoolingRequestOutput)
    assert (output.request_id, output.prompt_token_ids, output.num_cached_tokens) == ("7", [1, 2, 3], 0)
    assert output.finished and output.error is None
    assert repr(output).startswith(f"{kind.__name__}(request_id='7', outputs=")


def test_errors_are_carried_with_empty_results() -> None:
    failed = base(torch.empty(0), RequestError(500, "NaN"))
    classified = ClassificationRequestOutput.from_base(failed)
    assert (classified.outputs.probs, classified.outputs.label) == ([], None)
    assert ScoringRequestOutput.from_base(failed).outputs.score == 0.0
    assert EmbeddingRequestOutput.from_base(failed).outputs.embedding == []
    assert classified.error == RequestError(500, "NaN", retryable=False)


def test_request_error_is_frozen() -> None:
    error = RequestError(503, "busy", True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        error.code = 200  # type: ignore[misc]


def test_outputs_can_be_pickled() -> None:
    output = ClassificationRequestOutput.from_base(base(torch.tensor([0.25, 0.75])), ["no", "yes"])
    copy = pickle.loads(pickle.dumps(output))
    assert (copy.outputs.probs, copy.outputs.label, copy.request_id) == ([0.25, 0.75], "yes", "7")
