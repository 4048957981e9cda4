"""/tokenize and /detokenize: what the model's tokenizer makes of a text, and back."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from assay.server.body import parse_json, read_body
from assay.server.dialects import vllm_schema as schema
from assay.server.dialects.parsing import parsed
from assay.server.dialects.vllm_classify import CLASSIFY
from assay.server.dialects.vllm_form import chat_of
from assay.server.endpoint import CLIENT_CLOSED_REQUEST, failure_response
from assay.server.errors import ClientGone, failure_of
from assay.server.prepare import chat_options

if TYPE_CHECKING:
    from starlette.requests import Request

    from assay.server.served import ServedModel
    from assay.server.state import ServerState


logger = logging.getLogger(__name__)


class TokenEndpoint:
    """One of the routes; `work` runs in a thread, whatever the length of the text."""

    def __init__(self, state: ServerState, work: Callable[[Any, ServerState], Any]) -> None:
        self._state = state
        self._work = work

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        state = self._state
        state.offers.add(1)
        try:
            body = await parse_json(await read_body(request, state.settings.requests.max_body_bytes))
            loop = asyncio.get_running_loop()
            content = await loop.run_in_executor(state.runner.threads, self._written, body)
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except Exception as err:
            failure = failure_of(err)
            if failure.status >= 500:
                logger.error("tokenizing failed", exc_info=err)
            return failure_response(CLASSIFY, failure)
        finally:
            state.offers.add(-1)
        return Response(content, media_type="application/json")

    def _written(self, body: Any) -> bytes:
        return orjson.dumps(self._work(body, self._state))


def tokenize(body: Any, state: ServerState) -> dict[str, Any]:
    """POST /tokenize. No length limit."""
    form: schema.TokenizeCompletion | schema.TokenizeChat
    if isinstance(body, dict) and "messages" in body:
        form = parsed(schema.TokenizeChat, body)
    else:
        form = parsed(schema.TokenizeCompletion, body)
    model = state.models.find(form.model)
    text = form.prompt if isinstance(form, schema.TokenizeCompletion) else _chat_text(form, model, state)
    tokenizer = model.require_tokenizer()
    (sequence,) = tokenizer.encode_batch([text], add_special_tokens=form.add_special_tokens)
    return tokens_reply(sequence.input_ids, model, form.return_token_strs)


def _chat_text(form: schema.TokenizeChat, model: ServedModel, state: ServerState) -> str:
    policy = state.settings.requests
    options = chat_options(chat_of(form, None, policy), policy)
    if form.tools is not None:
        kwargs = {**(options.chat_template_kwargs or {}), "tools": form.tools}
        options = dataclasses.replace(options, chat_template_kwargs=kwargs)
    return model.session.prompts.chat_text(form.messages, options)


def tokens_reply(token_ids: list[int], model: ServedModel, with_strings: bool) -> dict[str, Any]:
    """The reply of /tokenize."""
    strings = model.require_tokenizer().tokens(token_ids) if with_strings else None
    return {
        "count": len(token_ids),
        "max_model_len": model.max_model_len,
        "tokens": token_ids,
        "token_strs": strings,
    }


def detokenize(body: Any, state: ServerState) -> dict[str, Any]:
    """POST /detokenize."""
    form = parsed(schema.Detokenize, body)
    return {"prompt": state.models.find(form.model).require_tokenizer().decode(form.tokens)}
