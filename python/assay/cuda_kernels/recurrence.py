"""What Mamba's layers carry from token to token: a short convolution and a state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.cuda_kernels.border import Border, address

if TYPE_CHECKING:
    from torch import Tensor


class Recurrence(Border):
    """`causal_conv1d` and `selective_scan`."""

    def causal_conv1d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        cu_seqlens: Tensor,
        activation: str,
        out: Tensor,
    ) -> None:
        """See `ops.causal_conv1d`."""
        import torch

        check, float32 = self._checks.check, (torch.float32,)
        check(x, "x", float32, (None, None), is_contiguous=False)
        num_tokens, num_channels = x.shape
        check(weight, "weight", float32, (None, num_channels))
        if len(weight) < 1:
            raise ValueError("weight must have at least one row")
        if bias is not None:
            check(bias, "bias", float32, (num_channels,))
        check(cu_seqlens, "cu_seqlens", (torch.int32,), (None,))
        check(out, "out", float32, (num_tokens, num_channels), is_contiguous=False)
        if _range(x)[0] < _range(out)[1] and _range(out)[0] < _range(x)[1]:
            raise ValueError("out must not share memory with x")
        self._module.causal_conv1d(
            x=address(x),
            x_stride=x.stride(0),
            weight=address(weight),
            bias=address(bias),
            activation=activation,
            cu_seqlens=address(cu_seqlens),
            out=address(out),
            out_stride=out.stride(0),
            num_tokens=num_tokens,
            num_seqs=len(cu_seqlens) - 1,
            num_channels=num_channels,
            width=len(weight),
            stream=self._stream(),
        )

    def selective_scan(
        self,
        u: Tensor,
        delta: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        d: Tensor,
        z: Tensor | None,
        cu_seqlens: Tensor,
        out: Tensor,
    ) -> None:
        """See `ops.selective_scan`."""
        import torch

        check, float32 = self._checks.check, (torch.float32,)
        check(u, "u", float32, (None, None), is_contiguous=False)
        num_tokens, num_channels = u.shape
        check(a, "a", float32, (None, num_channels))
        state_size = len(a)
        for tensor, name, width in (
            (delta, "delta", num_channels),
            (b, "b", state_size),
            (c, "c", state_size),
            (z, "z", num_channels),
            (out, "out", num_channels),
        ):
            if tensor is not None:
                check(tensor, name, float32, (num_tokens, width), is_contiguous=False)
        check(d, "d", float32, (num_channels,))
        check(cu_seqlens, "cu_seqlens", (torch.int32,), (None,))
        self._module.selective_scan(
            u=address(u),
            u_stride=u.stride(0),
            delta=address(delta),
            delta_stride=delta.stride(0),
            a=address(a),
            b=address(b),
            b_stride=b.stride(0),
            c=address(c),
            c_stride=c.stride(0),
            d=address(d),
            z=address(z),
            z_stride=0 if z is None else z.stride(0),
            cu_seqlens=address(cu_seqlens),
            out=address(out),
            out_stride=out.stride(0),
            num_tokens=num_tokens,
            num_seqs=len(cu_seqlens) - 1,
            num_channels=num_channels,
            state_size=state_size,
            stream=self._stream(),
        )


def _range(rows: Tensor) -> tuple[int, int]:
    """Addresses of the first byte of [num_rows, num_cols] and past the last."""
    start = address(rows)
    num_rows, num_cols = rows.shape
    length = 0 if num_rows == 0 else (num_rows - 1) * rows.stride(0) + num_cols
    return start, start + length * rows.element_size()
