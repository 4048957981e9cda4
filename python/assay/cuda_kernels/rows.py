"""Embeddings, norms and pooling: whole rows of the hidden size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.cuda_kernels.border import Border, address, dtype_name

if TYPE_CHECKING:
    from torch import Tensor


class Rows(Border):
    """`embed`, `layer_norm`, `rms_norm` and `pool`."""

    def embed(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor | None,
        word_embeddings: Tensor,
        position_embeddings: Tensor | None,
        token_type_embeddings: Tensor | None,
        task_type_embeddings: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        epsilon: float,
        out: Tensor,
    ) -> None:
        """See `ops.embed`."""
        import torch

        check, int32, float32 = self._checks.check, (torch.int32,), (torch.float32,)
        check(word_embeddings, "word_embeddings", self._floats(), (None, None))
        check(input_ids, "input_ids", int32, (None,))
        num_tokens, hidden_size = len(input_ids), word_embeddings.shape[1]
        check(position_ids, "position_ids", int32, (num_tokens,))
        if token_type_ids is not None:
            check(token_type_ids, "token_type_ids", int32, (num_tokens,))
        tables = (
            (position_embeddings, "position_embeddings"),
            (token_type_embeddings, "token_type_embeddings"),
            (task_type_embeddings, "task_type_embeddings"),
        )
        for table, name in tables:
            if table is not None:
                check(table, name, (word_embeddings.dtype,), (None, hidden_size))
        for vector, name in ((norm_weight, "norm_weight"), (norm_bias, "norm_bias")):
            if vector is not None:
                check(vector, name, float32, (hidden_size,))
        check(out, "out", float32, (num_tokens, hidden_size))
        self._module.embed(
            input_ids=address(input_ids),
            position_ids=address(position_ids),
            token_type_ids=address(token_type_ids),
            word_embeddings=address(word_embeddings),
            position_embeddings=address(position_embeddings),
            token_type_embeddings=address(token_type_embeddings),
            task_type_embeddings=address(task_type_embeddings),
            norm_weight=address(norm_weight),
            norm_bias=address(norm_bias),
            epsilon=epsilon,
            hidden_states=address(out),
            out=0,
            dtype=dtype_name(word_embeddings),
            num_live_rows=0,
            num_tokens=num_tokens,
            hidden_size=hidden_size,
            stream=self._stream(),
        )

    def layer_norm(
        self,
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        epsilon: float,
        residual: Tensor | None,
        out: Tensor,
    ) -> None:
        """See `ops.layer_norm`."""
        import torch

        rows = self._norm_rows(hidden_states, weight, epsilon, residual, out)
        if bias is not None:
            self._checks.check(bias, "bias", (torch.float32,), (hidden_states.shape[1],))
        self._module.layer_norm(bias=address(bias), **rows)

    def rms_norm(self, hidden_states: Tensor, weight: Tensor, epsilon: float, out: Tensor) -> None:
        """See `ops.rms_norm`."""
        self._module.rms_norm(**self._norm_rows(hidden_states, weight, epsilon, None, out))

    def _norm_rows(
        self, hidden_states: Tensor, weight: Tensor, epsilon: float, residual: Tensor | None, out: Tensor
    ) -> dict[str, Any]:
        """What both norms are called with, checked."""
        import torch

        check, float32 = self._checks.check, (torch.float32,)
        check(hidden_states, "hidden_states", float32, (None, None))
        num_rows, hidden_size = hidden_states.shape
        check(weight, "weight", float32, (hidden_size,))
        if residual is not None:
            check(residual, "residual", float32, (num_rows, hidden_size))
        check(out, "out", float32, (num_rows, hidden_size))
        return {
            "x": address(hidden_states),
            "x_dtype": "float32",
            "delta": address(residual),
            "weight": address(weight),
            "epsilon": epsilon,
            "sum": 0,
            "normed": address(out),
            "out": 0,
            "dtype": "float32",
            "num_live_rows": 0,
            "num_rows": num_rows,
            "hidden_size": hidden_size,
            "stream": self._stream(),
        }

    def pool(self, hidden_states: Tensor, cu_seqlens: Tensor, pooling: str, out: Tensor) -> None:
        """See `ops.pool`; what a row of an empty sequence holds is left open."""
        import torch

        check = self._checks.check
        check(hidden_states, "hidden_states", (torch.float32,), (None, None), is_contiguous=False)
        check(cu_seqlens, "cu_seqlens", (torch.int32,), (None,))
        num_seqs, hidden_size = len(cu_seqlens) - 1, hidden_states.shape[1]
        check(out, "out", (torch.float32,), (num_seqs, hidden_size))
        self._module.pool(
            hidden_states=address(hidden_states),
            hidden_stride=hidden_states.stride(0),
            cu_seqlens=address(cu_seqlens),
            pooling=pooling,
            out=address(out),
            num_seqs=num_seqs,
            hidden_size=hidden_size,
            dtype="float32",
            stream=self._stream(),
        )
