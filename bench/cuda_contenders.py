"""Who scores the pairs on a GPU: this package, and transformers padded, packed and compiled. All take token ids."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from contender import Unavailable

TOKEN_BUDGET = 16384
"""Tokens of a batch, padding included where there is some."""
VARLEN = "bench_varlen"
Ids = list[list[int]]


class Assay:
    """`LLM` with its engine: prompts in, outputs out."""

    def __init__(self, folder: Path, device: str, *, enforce_eager: bool = False, dtype: str = "bfloat16") -> None:
        from assay import LLM, PoolingParams

        self.llm = LLM(
            folder,
            device=device,
            dtype=dtype,
            skip_tokenizer_init=True,
            enforce_eager=enforce_eager,
            max_batch_tokens=TOKEN_BUDGET,
            max_batch_size=1024,
        )
        self.params = PoolingParams(use_activation=False)

    def score(self, ids: Ids) -> torch.Tensor:
        """Logits [num_pairs] on the CPU."""
        prompts = [{"prompt_token_ids": row} for row in ids]
        outputs = self.llm.classify(prompts, pooling_params=self.params, use_tqdm=False)
        return torch.tensor([output.outputs.probs[0] for output in outputs])

    def close(self) -> None:
        self.llm.close()


class Transformers:
    """transformers' classifier. kind "sdpa": sorted by length and padded; "compile": the same, compiled;
    "varlen": packed, with torch's own varlen attention; "eager-f32": one by one in float32, the reference.
    """

    def __init__(self, folder: Path, device: str, kind: str) -> None:
        import transformers

        self.kind, self.device = kind, device
        attention = {"varlen": VARLEN, "eager-f32": "eager"}.get(kind, "sdpa")
        if kind == "varlen":
            _register_varlen(self)
        self.model: Any = (
            transformers.AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=torch.float32 if kind == "eager-f32" else torch.bfloat16,
                attn_implementation=attention,
                local_files_only=True,
            )
            .to(device)
            .eval()
        )
        self.model.config.use_cache = False
        self.is_causal = hasattr(self.model, "score")
        self.cu_seqlens: torch.Tensor | None = None
        self.max_seqlen = 0
        self.forward: Callable[..., Any] = self.model
        if kind == "compile":
            self.forward = torch.compile(self.model, dynamic=True)

    def score(self, ids: Ids) -> torch.Tensor:
        """Logits [num_pairs] on the CPU."""
        order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
        scores = torch.empty(len(ids))
        with torch.inference_mode():
            parts = [(rows, self._batch([ids[index] for index in rows])) for rows in self._batches(ids, order)]
            for rows, logits in parts:
                scores[torch.tensor(rows)] = logits.float().cpu().flatten()
        return scores

    def _batches(self, ids: Ids, order: list[int]) -> list[list[int]]:
        """Runs of the order that fit the budget: padded to the longest, which is the first, or not."""
        if self.kind == "eager-f32":
            return [[index] for index in order]
        batches: list[list[int]] = [[]]
        size = 0
        for index in order:
            size = (
                size + len(ids[index])
                if self.kind == "varlen"
                else len(ids[(batches[-1] or [index])[0]]) * (len(batches[-1]) + 1)
            )
            if batches[-1] and size > TOKEN_BUDGET:
                batches.append([])
                size = len(ids[index])
            batches[-1].append(index)
        return batches

    def _batch(self, rows: Ids) -> torch.Tensor:
        return self._packed(rows) if self.kind == "varlen" else self._padded(rows)

    def _padded(self, rows: Ids) -> torch.Tensor:
        longest = len(rows[0])
        pad = self.model.config.pad_token_id or 0
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows]).to(self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]).to(self.device)
        result: torch.Tensor = self.forward(input_ids=ids, attention_mask=mask).logits
        return result

    def _packed(self, rows: Ids) -> torch.Tensor:
        lengths = torch.tensor([len(row) for row in rows])
        ends = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        offset = 0 if self.is_causal or self.model.config.model_type == "bert" else self.model.config.pad_token_id + 1
        positions = torch.cat([torch.arange(len(row)) for row in rows]) + offset
        ids = torch.tensor([token for row in rows for token in row])
        self.cu_seqlens, self.max_seqlen = ends.int().to(self.device), int(lengths.max())
        inputs = {"input_ids": ids[None].to(self.device), "position_ids": positions[None].to(self.device)}
        states = self.model.base_model(**inputs).last_hidden_state[0]
        picked = states[(ends[1:] - 1 if self.is_causal else ends[:-1]).to(self.device)]
        if self.is_causal:
            return self.model.score(picked)  # type: ignore[no-any-return]
        if self.model.config.model_type == "bert":
            return self.model.classifier(self.model.bert.pooler(picked[:, None]))  # type: ignore[no-any-return]
        return self.model.classifier(picked[:, None])  # type: ignore[no-any-return]

    def close(self) -> None:
        self.model = self.forward = None  # type: ignore[assignment]


def _register_varlen(owner: Transformers) -> None:
    """transformers' attention on packed rows by torch.nn.attention.varlen; raises Unavailable where there is none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as err:
        raise Unavailable(f"this torch has no varlen attention: {err}") from err
    from transformers import AttentionInterface, AttentionMaskInterface

    known = inspect.signature(varlen_attn).parameters

    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None = None, **_: Any
    ) -> tuple[torch.Tensor, None]:
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        causal: dict[str, Any] = {"is_causal": owner.is_causal}
        if "window_size" in known:
            causal = {"window_size": (-1, 0) if owner.is_causal else (-1, -1)}
        if q.shape[1] != k.shape[1]:
            if "enable_gqa" in known:
                causal["enable_gqa"] = True
            else:
                k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
        if "scale" in known:
            causal["scale"] = scaling
        ends, longest = owner.cu_seqlens, owner.max_seqlen
        return varlen_attn(q, k, v, ends, ends, longest, longest, **causal)[None], None

    AttentionInterface.register(VARLEN, attention)
    AttentionMaskInterface.register(VARLEN, lambda **_: None)


MAKERS: dict[str, Callable[[Path, str], Any]] = {
    "assay": Assay,
    "assay-eager": lambda folder, device: Assay(folder, device, enforce_eager=True),
    "transformers-sdpa": lambda folder, device: Transformers(folder, device, "sdpa"),
    "transformers-varlen": lambda folder, device: Transformers(folder, device, "varlen"),
    "transformers-compile": lambda folder, device: Transformers(folder, device, "compile"),
}
