"""What torch computes for a row must not depend on other rows: whole vectors, one thread, our products."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from assay.models.packed_experts import RouterWeight, pack_experts
from assay.models.packed_products import lanes, one_thread, pack_products

ELEMENTWISE = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "mish": F.mish,
    "softplus": F.softplus,
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 0.1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_multiple_of_lanes_rows_gives_every_row_its_bits(name, dtype):
    generator = torch.Generator().manual_seed(0)
    multiple = lanes(dtype)
    for width in (1, 7, 91, 128):
        rows = 2 * torch.randn(8 * multiple, width, generator=generator).to(dtype)
        with one_thread():
            whole = ELEMENTWISE[name](rows)
            for count in range(multiple, 8 * multiple, multiple):
                assert torch.equal(ELEMENTWISE[name](rows[:count].clone()), whole[:count])


def test_one_thread_gives_the_count_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def conv1d(rows, columns):
    layer = Conv1D(columns, rows)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


LAYERS = {
    "linear": lambda: nn.Linear(48, 33),
    "without bias": lambda: nn.Linear(48, 33, bias=False),
    "Conv1D": lambda: conv1d(48, 33),
}


@pytest.mark.parametrize("name", LAYERS)
def test_packed_layers_compute_what_they_did_and_free_their_weight(name):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    model = nn.Sequential(nn.Identity(), layer)
    rows = torch.randn(2, 5, 48)
    with torch.no_grad():
        exact = model.double()(rows.double())
        model.float()
        pack_products(model, "float32")
        out = model(rows)
        assert layer.weight is None and layer.bias is None
        assert out.shape == (2, 5, 33)
        assert (out - exact).abs().max() <= 1e-5 * exact.abs().max()
        assert torch.equal(model(rows[1:, 3:]), out[1:, 3:])


class TinyRouter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 48))

    def forward(self, rows):
        return F.linear(rows, self.weight.type(torch.float32))


def test_a_routers_product_is_ours_whatever_the_rows():
    torch.manual_seed(0)
    router = TinyRouter()
    rows = torch.randn(50, 48)
    exact = rows.double() @ router.weight.detach().double().T
    pack_experts(router, "bfloat16")
    assert isinstance(router.weight, RouterWeight)
    out = router(rows)
    assert (out - exact).abs().max() <= 1e-5 * exact.abs().max()
    assert torch.equal(router(rows[7:8]), out[7:8])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda weight: torch.matmul(torch.ones(2, 48), weight),
        lambda weight: F.linear(torch.ones(2, 48), weight, torch.ones(4)),
        lambda weight: weight.type(torch.float64),
    ],
    ids=["matmul", "bias", "float64"],
)
def test_another_use_of_a_routers_weight_fails(wrong):
    router = TinyRouter()
    pack_experts(router, "float32")
    with pytest.raises(TypeError):
        wrong(router.weight)
