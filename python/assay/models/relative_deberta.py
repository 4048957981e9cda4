"""DeBERTa's attention (v1, v2 and v3): scores of content against content, content against distance and the reverse."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.models.packed_products import one_thread
from assay.models.relative_attention import attend_each, by_pair

if TYPE_CHECKING:
    from torch import Tensor

    from assay.models.packed_attention import PackedSequences


@dataclass(frozen=True, slots=True)
class DistanceTerms:
    """What a layer knows of distances. The projected embeddings depend on weights only: they are computed once.

    pos_key, pos_query: [heads, num_embeddings, head_dim] float32, None for a term the model lacks; pos_query times the
    softmax scale. rows: [2 * max_len - 1], the embedding of each distance (query minus key) from 1 - max_len on.
    """

    pos_key: Tensor | None
    pos_query: Tensor | None
    rows: Tensor

    def add(self, scores: Tensor, q: Tensor, k: Tensor) -> None:
        """Add both terms to the scores [heads, length, length] of q (scaled) and k [heads, length, head_dim]."""
        import torch

        length, middle = q.shape[1], len(self.rows) // 2
        rows = self.rows[middle - length + 1 : middle + length]
        if self.pos_key is not None:  # columns in the order of key minus query
            scores += by_pair(torch.bmm(q, self.pos_key.index_select(1, rows.flip(0)).transpose(1, 2)))
        if self.pos_query is not None:
            scores += by_pair(torch.bmm(k, self.pos_query.index_select(1, rows).transpose(1, 2))).transpose(1, 2)


def pack_deberta(backbone: Any, sequences: PackedSequences, max_len: int) -> None:
    """Let every attention layer of a DeBERTa run sequence by sequence; its linear layers are packed already."""
    import torch

    encoder = backbone.encoder
    with torch.inference_mode(), one_thread():
        embeddings, device = encoder.get_rel_embedding(), backbone.device
        rows = embedding_rows(encoder, max_len).to(device) if encoder.relative_attention else None
        for layer in encoder.layer:
            module = layer.attention.self
            terms = None if rows is None else _terms(module, embeddings, rows)
            module.forward = functools.partial(_forward, module, sequences, terms)
    # what follows would be as large as the batch squared, and knows nothing of sequences
    encoder.get_rel_embedding = lambda: None
    encoder.get_rel_pos = lambda *_: None
    encoder.get_attention_mask = lambda mask: mask


def embedding_rows(encoder: Any, max_len: int) -> Tensor:
    """Which embedding stands for each distance from 1 - max_len to max_len - 1, by transformers' own rule.

    Always computed for all distances at once: a logarithm may differ in its last bit from one length to another.
    """
    import torch

    distances = torch.arange(1 - max_len, max_len)
    span, num_buckets = encoder.max_relative_positions, getattr(encoder, "position_buckets", 0)
    if num_buckets > 0:
        from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

        distances, span = make_log_bucket_position(distances, num_buckets, span).long(), num_buckets
    rows: Tensor = (distances + span).clamp(0, 2 * span - 1)
    return rows


def _terms(module: Any, embeddings: Tensor, rows: Tensor) -> DistanceTerms:
    key_name, query_name = _projections(module)
    tables: list[Tensor | None] = []
    for kind, name in (("c2p", key_name), ("p2c", query_name)):
        if kind not in module.pos_att_type:
            tables.append(None)
            continue
        table = getattr(module, name)(embeddings)
        if name.startswith("pos_"):
            setattr(module, name, None)  # nothing else reads it
        tables.append(_heads(module, table).transpose(0, 1).float().contiguous())
    pos_key, pos_query = tables
    return DistanceTerms(pos_key, None if pos_query is None else pos_query * _softmax_scale(module), rows)


def _projections(module: Any) -> tuple[str, str]:
    """Names of the layers that embeddings of distances go through, to meet queries and to meet keys."""
    if hasattr(module, "in_proj"):
        return "pos_proj", "pos_q_proj"
    return ("key_proj", "query_proj") if module.share_att_key else ("pos_key_proj", "pos_query_proj")


def _softmax_scale(module: Any) -> float:
    """One over the root of the head's width times the kinds of scores; the versions count those differently."""
    if hasattr(module, "in_proj"):
        num_kinds = 1 + len(module.pos_att_type)
    else:
        num_kinds = 1 + sum(kind in module.pos_att_type for kind in ("c2p", "p2c"))
    return float((module.attention_head_size * num_kinds) ** -0.5)


def _heads(module: Any, rows: Tensor) -> Tensor:
    """[num_rows, all heads] -> [num_rows, heads, numbers of a head]."""
    return rows.view(len(rows), module.num_attention_heads, -1)


def _forward(
    module: Any,
    sequences: PackedSequences,
    terms: DistanceTerms | None,
    hidden_states: Tensor,
    attention_mask: Any = None,
    output_attentions: bool = False,
    query_states: None = None,
    relative_pos: None = None,
    rel_embeddings: None = None,
) -> tuple[Tensor, None]:
    """What stands for the module's forward: hidden_states [1, num_tokens, hidden_size] -> the same shape."""
    q, k, v = (_heads(module, part) for part in _query_key_value(module, hidden_states[0]))
    out = attend_each(sequences, q, k, v, _softmax_scale(module), _nothing if terms is None else terms.add)
    return out.unsqueeze(0), None


def _query_key_value(module: Any, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not hasattr(module, "in_proj"):
        return module.query_proj(rows), module.key_proj(rows), module.value_proj(rows)
    q, k, v = (part.flatten(1) for part in _heads(module, module.in_proj(rows)).chunk(3, dim=-1))
    return q + module.q_bias, k, v + module.v_bias


def _nothing(scores: Tensor, q: Tensor, k: Tensor) -> None:
    """A model without relative positions."""
