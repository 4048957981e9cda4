"""`classifier_head` against float64: dense, affine, activation per row; bitwise batch invariance; bad logits show."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import reference
from assay import ops

NAMES = ("identity", "sigmoid", "softmax")


class Case:
    """A random head and its input."""

    def __init__(self, num_rows: int, hidden_size: int, num_labels: int, *, dense: int = 0, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def layer(out_features: int, in_features: int) -> tuple[torch.Tensor, torch.Tensor]:
            weight = torch.randn(out_features, in_features, generator=generator) * 2 / in_features**0.5
            return weight, torch.randn(out_features, generator=generator)

        self.pooled = torch.randn(num_rows, hidden_size, generator=generator)
        self.dense = layer(dense, hidden_size) if dense else None
        self.classifier = layer(num_labels, dense or hidden_size)
        self.activations = [NAMES[i % 3] for i in range(num_rows)]
        self.packed = ops.pack_weight(*self.classifier, "float32_fma")
        self.packed_dense = ops.pack_weight(*self.dense, "float32_fma") if self.dense else None

    def run(self, part: Any = slice(None), **options: Any) -> torch.Tensor:
        codes = torch.tensor([ops.HEAD_ACTIVATIONS[name] for name in self.activations], dtype=torch.uint8)[part]
        pooled = self.pooled[part]
        out = reference.poisoned(pooled.shape[0], self.packed.out_features)
        return ops.classifier_head(pooled, self.packed, codes, dense=self.packed_dense, out=out, **options)

    def plain(self, dtype: torch.dtype, **options: Any) -> torch.Tensor:
        def cast(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            return pair[0].to(dtype), pair[1].to(dtype)

        dense = cast(self.dense) if self.dense else None
        return reference.classifier_head(
            self.pooled.to(dtype), cast(self.classifier), self.activations, dense, **options
        )

    def check(self, **options: Any) -> None:
        exact, base = self.plain(torch.float64, **options), self.plain(torch.float32, **options)
        assert reference.max_err(self.run(**options), exact) <= reference.budget(base, exact, self.pooled.shape[1])


@pytest.mark.parametrize("num_labels", [1, 2, 3, 7, 15, 16, 17, 31, 33, 100])
def test_head_matches_float64(isa: str, num_labels: int) -> None:
    Case(31, 384, num_labels).check()
    Case(31, 65, num_labels, dense=48).check()


@pytest.mark.parametrize("num_rows", [0, 1, 15, 16, 17, 300])
def test_head_takes_any_number_of_rows(isa: str, num_rows: int) -> None:
    Case(num_rows, 64, 3, dense=64).check(logit_mean=0.5, logit_sigma=1.75)


@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
def test_head_dense_activation(isa: str, activation: str) -> None:
    Case(20, 96, 5, dense=80).check(dense_activation=activation)


def test_head_affine_comes_before_the_activation_and_reaches_identity_rows(isa: str) -> None:
    case = Case(6, 32, 2)
    case.activations = ["identity"] * 6
    raw = case.run()
    assert torch.equal(case.run(logit_mean=4.5, logit_sigma=0.3), (raw - 4.5) / torch.tensor(0.3))
    case.activations = ["sigmoid"] * 6
    exact = torch.sigmoid((raw.double() - 4.5) / 0.3)
    assert reference.max_err(case.run(logit_mean=4.5, logit_sigma=0.3), exact) < 1e-6


def one_to_one(values: list[list[float]], activation: str) -> torch.Tensor:
    """Scores of given logits: an identity classifier passes them on unchanged."""
    logits = torch.tensor(values)
    packed = ops.pack_weight(torch.eye(logits.shape[1]), None, "float32_fma")
    codes = torch.full((logits.shape[0],), ops.HEAD_ACTIVATIONS[activation], dtype=torch.uint8)
    return ops.classifier_head(logits, packed, codes, out=reference.poisoned(*logits.shape))


def test_softmax_of_extreme_logits(isa: str) -> None:
    rows = [[-200.0, -201.0, -199.0], [1e30, 0.0, -1e30], [88.0, 89.0, 90.0], [0.0, -80.0, -100.0], [-3e38, 3e38, 0.0]]
    out = one_to_one(rows, "softmax")
    assert reference.max_err(out, torch.tensor(rows).double().softmax(-1)) < 2e-7
    assert (out.sum(-1) - 1).abs().max() < 2e-7
    assert torch.equal(one_to_one([[-7.0], [500.0]], "softmax"), torch.ones(2, 1))


def test_sigmoid_of_extreme_logits(isa: str) -> None:
    values = [[x] for x in (-3e38, -100.0, -87.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 100.0, 3e38)]
    out, exact = one_to_one(values, "sigmoid"), torch.tensor(values).double().sigmoid()
    assert ((out - exact).abs() <= 3e-7 * exact + 1e-38).all()


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_head_lets_a_bad_logit_show(isa: str, activation: str, bad: float) -> None:
    """Not even sigmoid(inf) may look like a score: the engine turns a non-finite row into that item's error."""
    packed = ops.pack_weight(torch.ones(2, 1), None, "float32_fma")
    code = torch.full((3,), ops.HEAD_ACTIVATIONS[activation], dtype=torch.uint8)
    out = ops.classifier_head(torch.tensor([[1.0], [bad], [2.0]]), packed, code)
    assert not out[1].isfinite().any()
    assert out[[0, 2]].isfinite().all()


def test_head_finds_one_bad_logit_of_many(isa: str) -> None:
    for num_labels in (2, 17, 40):
        for position in (0, num_labels - 1):
            weight, bias = torch.zeros(num_labels, 4), torch.zeros(num_labels)
            bias[position] = float("-inf")
            code = torch.full((1,), ops.HEAD_ACTIVATIONS["softmax"], dtype=torch.uint8)
            out = ops.classifier_head(torch.ones(1, 4), ops.pack_weight(weight, bias, "float32_fma"), code)
            assert out.isnan().all()


@pytest.mark.parametrize("num_labels", [1, 3, 40])
def test_head_is_batch_invariant(isa: str, num_labels: int, restore_threads: None) -> None:
    case = Case(600, 96, num_labels, dense=72)
    options = {"logit_mean": 0.1, "logit_sigma": 1.3}
    ops.set_num_threads(1)
    whole = case.run(**options)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1))
    for threads in (1, 2, 3):
        ops.set_num_threads(threads)
        assert torch.equal(case.run(**options), whole)
        assert torch.equal(case.run(order, **options), whole[order])
        for part in (slice(0, 1), slice(7, 8), slice(3, 20), slice(599, 600)):
            assert torch.equal(case.run(part, **options), whole[part])


def test_head_refuses_wrong_arguments() -> None:
    case = Case(4, 32, 3, dense=16)
    codes = torch.zeros(4, dtype=torch.uint8)

    def head(pooled: torch.Tensor, row_activations: torch.Tensor, **options: Any) -> None:
        ops.classifier_head(pooled, case.packed, row_activations, dense=case.packed_dense, **options)

    with pytest.raises(ValueError, match=r"pooled must have shape \[\*, 32\], got \[4, 31\]"):
        head(case.pooled[:, :31], codes)
    with pytest.raises(ValueError, match="pooled must be float32, got bfloat16"):
        head(case.pooled.bfloat16(), codes, out=torch.empty(4, 3))
    with pytest.raises(ValueError, match="row_activations must be 0, 1 or 2, got 3 at index 2"):
        head(case.pooled, torch.tensor([0, 1, 3, 2], dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"row_activations must have shape \[4\], got \[3\]"):
        head(case.pooled, codes[:3])
    with pytest.raises(ValueError, match="logit_sigma cannot be 0"):
        head(case.pooled, codes, logit_sigma=0.0)
    with pytest.raises(ValueError, match=r"dense_activation='swish': choose one of none, gelu"):
        head(case.pooled, codes, dense_activation="swish")
    with pytest.raises(ValueError, match=r"out must have shape \[4, 3\], got \[4, 2\]"):
        head(case.pooled, codes, out=torch.empty(4, 2))
    with pytest.raises(ValueError, match="classifier must take 16 features, takes 32"):
        ops.classifier_head(
            case.pooled, ops.pack_weight(torch.ones(3, 32), None, "float32_fma"), codes, dense=case.packed_dense
        )
    with pytest.raises(ValueError, match="the weights of a head must be packed as float32_fma"):
        ops.classifier_head(case.pooled, ops.pack_weight(torch.ones(3, 32), None, "bfloat16"), codes)
