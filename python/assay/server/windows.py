"""Long texts in windows: where to cut them, and one score of many."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ValidationError
from assay.params import PoolingParams
from assay.server.errors import Refused, refuse
from assay.server.result import Item
from assay.server.whole_text import bounded
from assay.text_limits import cut_texts

if TYPE_CHECKING:
    from torch import Tensor

    from assay.llm.session import CallOptions
    from assay.server.request import Call, Encode, LongInput, Score
    from assay.server.served import ServedModel
    from assay.tokenizer import Tokenizer

SLACK: Final = 64
"""One token in this many is left free: a piece of text may become a few more tokens than it was inside the whole."""
MAX_OVERLAP: Final = 16
"""A token is read at most this often: a small stride would make any text a load without bounds."""

TOO_LONG: Final = ("input_tokens", "input_text")
"""What a ValidationError is about that says that a prompt is longer than the model."""


def window_size(room: int) -> int:
    """Content tokens of one window where the model has `room` for them beside everything else."""
    size = room - max(1, room // SLACK)
    if size < 1:
        raise _no_room()
    return size


def _no_room() -> Refused:
    return refuse("long_input: the query and the template leave no room for the text", param="long_input")


def split_text(tokenizer: Tokenizer, text: str, size: int, long_input: LongInput) -> list[str]:
    """`text` in windows of at most `size` content tokens, cut between tokens and, where one is near, between words."""
    encoding = tokenizer.backend.encode(bounded(text, "a text for long_input", "long_input"), add_special_tokens=False)
    offsets: list[tuple[int, int]] = encoding.offsets
    if len(offsets) <= size:
        return [text]
    words: list[int | None] = encoding.word_ids
    spans = window_spans(len(offsets), size, long_input, words)
    return [text[offsets[start][0] : offsets[stop - 1][1]] for start, stop in spans]


def window_spans(
    count: int, size: int, long_input: LongInput, words: list[int | None] | None = None
) -> list[tuple[int, int]]:
    """Start and stop of every window over `count` tokens; together they cover them all."""
    stride = size if long_input.stride is None else long_input.stride
    least = max(1, size // MAX_OVERLAP)
    if not least <= stride <= size:
        raise refuse(
            f"long_input.stride ({stride}) must not be larger than a window ({size} tokens), nor below {least}",
            param="long_input.stride",
        )
    spans = []
    start = 0
    while True:
        stop = min(count, start + size)
        if stop < count:
            stop = _word_start(words, start + (size + 1) // 2, stop)
        spans.append((start, stop))
        if stop == count:
            return spans
        start = max(start + 1, min(stop, _word_start(words, start + 1, start + stride)))


def _word_start(words: list[int | None] | None, least: int, index: int) -> int:
    """The last token from `least` to `index` that begins a word, or `index` where none does."""
    if words is None:
        return index
    for candidate in range(index, max(least, 1) - 1, -1):
        if words[candidate] != words[candidate - 1]:
            return candidate
    return index


def combined(parts: list[Tensor], aggregate: str) -> Tensor:
    """The scores of a text's windows as one, label by label."""
    import torch

    if len(parts) == 1 or aggregate == "first":
        return parts[0]
    stacked = torch.stack(parts)
    return stacked.amax(dim=0) if aggregate == "max" else stacked.mean(dim=0)


def windowed_prompts(call: Call, work: Encode, model: ServedModel) -> tuple[Any, list[int] | None]:
    """The prompts, long ones in windows, and how many windows each has; None where none were asked for."""
    if call.long_input is None:
        return work.prompts, None
    long_input, tokenizer = call.long_input, model.require_tokenizer()
    is_one = isinstance(work.prompts, str) or (work.prompts and isinstance(work.prompts[0], int))
    adds = call.tokenization.get("add_special_tokens") is not False
    size = window_size(model.max_model_len - (tokenizer.num_special_tokens(is_pair=False) if adds else 0))
    parts: list[Any] = []
    counts = []
    for prompt in [work.prompts] if is_one else work.prompts:
        if isinstance(prompt, str):
            pieces: list[Any] = split_text(tokenizer, prompt, size, long_input)
        else:
            spans = window_spans(len(prompt), model.max_model_len, long_input)
            pieces = [prompt[start:stop] for start, stop in spans]
        parts += pieces
        counts.append(len(pieces))
    return parts, counts


def windowed_documents(
    long_input: LongInput, work: Score, query_limit: int, model: ServedModel, options: CallOptions
) -> tuple[list[str], list[int]]:
    """The documents in windows that leave room for the query, and how many windows each has.

    work.max_tokens_per_doc is applied before a document is split, so it may be more than the model reads at once.
    query_limit: max_tokens_per_query as the model takes it.
    """
    documents = work.documents if isinstance(work.documents, list) else [work.documents]
    texts = [document for document in documents if isinstance(document, str)]
    if len(texts) < len(documents):
        raise refuse("long_input takes documents that are plain texts", param="long_input")
    if work.max_tokens_per_doc < 0:
        raise refuse("max_tokens_per_doc must be a non-negative integer", param="max_tokens_per_doc")
    tokenizer = model.require_tokenizer()
    size = window_size(model.max_model_len - _frame_size(work.queries, query_limit, model, options))
    pieces = [
        split_text(tokenizer, text, size, long_input) for text in cut_texts(tokenizer, texts, work.max_tokens_per_doc)
    ]
    return [piece for group in pieces for piece in group], [len(group) for group in pieces]


def _frame_size(query: Any, query_limit: int, model: ServedModel, options: CallOptions) -> int:
    """Tokens that stand beside every window: those of the query and the template, uncut and without padding."""
    params = PoolingParams(extra_kwargs={"max_tokens_per_query": query_limit})
    probe = model.session.prepare_score(query, "", params, options).job
    whole = dataclasses.replace(probe.options, truncate_to=None, pad_to=None)
    try:
        return len(model.session.renderer.render(probe.prompts[-1:], whole)[0].input_ids)
    except ValidationError as err:
        if err.parameter in TOO_LONG:
            raise _no_room() from None
        raise


def joined(items: list[Item], counts: list[int], aggregate: str) -> list[Item]:
    """One item per text of the items of its windows; counts[i] of them belong to text i."""
    whole = []
    start = 0
    for count in counts:
        group = items[start : start + count]
        start += count
        whole.append(
            Item(
                combined([item.data for item in group], aggregate),
                sum(item.num_tokens for item in group),
                any(item.is_truncated for item in group),
                None,
                count,
            )
        )
    return whole
