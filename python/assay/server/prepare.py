"""From an internal request to a job for the engine, and from the job's results to the internal answer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.chat import ChatOptions
from assay.inputs import check_cache_salt
from assay.llm.session import CallOptions, ScoreOptions
from assay.params import PoolingParams
from assay.server import windows
from assay.server.errors import refuse
from assay.server.request import Call, Chat, Encode, Score
from assay.server.result import Answer, Item, Timing
from assay.server.scale import scaling, score_kind

if TYPE_CHECKING:
    from torch import Tensor

    from assay.engine import Job, Result
    from assay.llm.session import Prepared
    from assay.outputs import PoolingOutput, PoolingRequestOutput
    from assay.server.served import ServedModel
    from assay.server.settings import RequestPolicy


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A checked call. finish(results, timing) makes the answer of the job's results."""

    job: Job
    finish: Callable[[list[Result], Timing], Answer]


def prepare(call: Call, model: ServedModel, policy: RequestPolicy) -> PreparedCall:
    """Check `call` against `model`; raises Refused or a ValueError. May tokenise: see `is_heavy`."""
    _check_conditions(call, model)
    prepared, shape = _prepared(call, model, _options(call, policy))
    job = prepared.job
    job.priority = call.priority
    job.cache_salt = call.cache_salt
    if call.cut_side is not None or _cuts(call, policy):
        job.options = dataclasses.replace(job.options, cut_side=call.cut_side, cut_query=_cuts(call, policy))
    timeout_ms = call.timeout_ms or policy.default_timeout_ms
    if timeout_ms is not None:
        job.deadline = time.monotonic() + timeout_ms / 1000.0
    name, characters = call.model or model.name, call.num_characters

    def finish(results: list[Result], timing: Timing) -> Answer:
        session = model.session
        outputs = prepared.finish([session.output(result) for result in results])
        items = shape(outputs, results)
        return Answer(
            model=model,
            name=name,
            items=items,
            num_tokens=sum(len(result.token_ids) for result in results),
            num_characters=characters,
            score_kind=score_kind(call, model),
            timing=timing,
        )

    return PreparedCall(job, finish)


def is_heavy(call: Call) -> bool:
    """Whether preparing the call takes long enough to be done in a thread: it renders a template, or tokenises."""
    work = call.work
    if call.long_input is not None or isinstance(work, Chat):
        return True
    return isinstance(work, Score) and (work.max_tokens_per_query > 0 or work.max_tokens_per_doc > 0)


def _check_conditions(call: Call, model: ServedModel) -> None:
    if call.priority != 0 and not model.has_priorities:
        raise refuse("priority must be 0: the server runs without --scheduling-policy priority", param="priority")
    check_cache_salt(call.cache_salt)
    limit = call.tokenization.get("truncate_prompt_tokens")
    if limit is not None and limit > model.max_model_len:
        raise refuse(
            "truncate_prompt_tokens value is greater than max_model_len. Please request a smaller truncation size.",
            param="truncate_prompt_tokens",
        )
    if call.long_input is not None and limit is not None:
        raise refuse("long_input reads the whole text: it excludes truncate_prompt_tokens", param="long_input")
    if call.long_input is not None and isinstance(call.work, Chat):
        raise refuse("long_input takes plain texts: a conversation is read whole", param="long_input")


def _options(call: Call, policy: RequestPolicy) -> CallOptions:
    """Tokenization and templates; the server's variables for templates are there unless the request sets them."""
    work, tokenization = call.work, _tokenization(call, policy)
    if isinstance(work, Chat):
        return CallOptions(tokenization_kwargs=tokenization, chat=chat_options(work, policy))
    if isinstance(work, Encode):
        return CallOptions(tokenization_kwargs=tokenization)
    variables = {**policy.chat_template_kwargs, **work.chat_template_kwargs}
    return CallOptions(tokenization_kwargs=tokenization, scoring=ScoreOptions(chat_template_kwargs=variables or None))


def chat_options(work: Chat, policy: RequestPolicy) -> ChatOptions:
    """How a request's conversation is rendered."""
    return ChatOptions(
        chat_template=work.chat_template,
        add_generation_prompt=work.add_generation_prompt,
        continue_final_message=work.continue_final_message,
        chat_template_kwargs={**policy.chat_template_kwargs, **work.chat_template_kwargs},
        content_format=policy.content_format,
    )


def _cuts(call: Call, policy: RequestPolicy) -> bool:
    """Whether what is too long is cut although the request names no length to cut it to."""
    cuts = policy.auto_truncate if call.cut_long is None else call.cut_long
    return cuts and "truncate_prompt_tokens" not in call.tokenization


def _tokenization(call: Call, policy: RequestPolicy) -> dict[str, Any]:
    kwargs = dict(call.tokenization)
    if _cuts(call, policy) or call.long_input is not None:
        kwargs["truncate_prompt_tokens"] = -1
    return kwargs


Shape = Callable[[list[Any], "list[Result]"], "list[Item]"]


def _prepared(call: Call, model: ServedModel, options: CallOptions) -> tuple[Prepared[Any], Shape]:
    work = call.work
    if isinstance(work, Score):
        return _prepared_score(call, work, model, options)
    task = model.check_task(work.task)
    scale, is_active = scaling(call, model)
    params = PoolingParams(use_activation=is_active, dimensions=call.dimensions)
    session = model.session
    prompts, counts = ([work.messages], None) if isinstance(work, Chat) else windows.windowed_prompts(call, work, model)
    prepared = session.prepare_encode(task, prompts, params, options)

    def shape(outputs: list[PoolingRequestOutput[PoolingOutput]], results: list[Result]) -> list[Item]:
        items = [_item(scale(output.outputs.data), result) for output, result in zip(outputs, results, strict=True)]
        return items if counts is None else windows.joined(items, counts, call.aggregate)

    return prepared, shape


def _prepared_score(call: Call, work: Score, model: ServedModel, options: CallOptions) -> tuple[Prepared[Any], Shape]:
    scale, is_active = scaling(call, model)
    limits = {"max_tokens_per_query": work.max_tokens_per_query, "max_tokens_per_doc": work.max_tokens_per_doc}
    if work.has_soft_limits:
        limits = {name: 0 if limit >= model.max_model_len else limit for name, limit in limits.items()}
    documents, counts = work.documents, None
    if call.long_input is not None:
        query_limit = limits["max_tokens_per_query"]
        documents, counts = windows.windowed_documents(call.long_input, work, query_limit, model, options)
        limits["max_tokens_per_doc"] = 0  # the documents are cut already
    params = PoolingParams(use_activation=is_active, extra_kwargs=dict(limits) if any(limits.values()) else None)
    prepared = model.session.prepare_score(work.queries, documents, params, options)

    def shape(outputs: list[Any], results: list[Result]) -> list[Item]:
        import torch

        # A cross-encoder has one result per pair, which is its score. Where embeddings are compared there are more
        # results than scores, and the last ones are the documents.
        is_compared = len(results) > len(outputs)
        items = []
        for output, result in zip(outputs, results[len(results) - len(outputs) :], strict=True):
            data = torch.tensor([output.outputs.score]) if is_compared or result.data is None else result.data
            items.append(_item(scale(data), result, len(output.prompt_token_ids)))
        return items if counts is None else windows.joined(items, counts, call.aggregate)

    return prepared, shape


def _item(data: Tensor, result: Result, num_tokens: int | None = None) -> Item:
    length = len(result.token_ids) if num_tokens is None else num_tokens
    return Item(data, length, result.is_truncated, result.num_tokens_before_truncation)
