"""/tokenize, /detokenize and TEI's /decode: what the model's tokenizer makes of a text, and back."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import Response

from assay.media import Illustrated
from assay.server.body import parse_json, read_body
from assay.server.dialects import tei, vllm_reply
from assay.server.dialects import vllm_schema as schema
from assay.server.dialects.base import Dialect, always, has_key
from assay.server.dialects.parsing import parsed
from assay.server.dialects.vllm_form import chat_of, check_media
from assay.server.endpoint import error_response, wanted_dialect
from assay.server.errors import refuse
from assay.server.prepare import chat_options
from assay.server.whole_text import bounded
from assay.tokenize_options import TokenizeOptions

if TYPE_CHECKING:
    from starlette.requests import Request

    from assay.server.served import ServedModel
    from assay.server.state import ServerState


MAX_WITH_IMAGES: Final = 1_000_000
"""Tokens of a conversation with images; longer ones are refused."""
MAX_DESCRIBED: Final = 2_000_000
"""Characters that TEI's /tokenize takes, about TEI's own limit: each of their tokens becomes an object of JSON."""


@dataclass(frozen=True, slots=True)
class TokenWork:
    """What one dialect asks of the tokenizer: run(body, state) gives the reply, as JSON or as its bytes."""

    dialect: Dialect
    run: Callable[[Any, ServerState], Any]
    matches: Callable[[Any, Mapping[str, str]], bool] = always


class TokenEndpoint:
    """One of the routes; its work runs in a thread, whatever the length of the text. The last work takes every body."""

    def __init__(self, state: ServerState, works: Sequence[TokenWork]) -> None:
        self._state = state
        self._works = works

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        state, work, raw = self._state, self._works[-1], b""
        state.offers.add(1)
        try:
            raw = await read_body(request, state.settings.requests.max_body_bytes)
            body = await parse_json(raw)
            work = self._choose(body, request)
            loop = asyncio.get_running_loop()
            content = await loop.run_in_executor(state.runner.threads, _written, work, body, state)
        except Exception as err:
            return error_response(work.dialect, err, "tokenizing")
        finally:
            state.offers.add(-1)
            state.spare_memory.note(len(raw))
        return Response(content, media_type="application/json")

    def _choose(self, body: Any, request: Request) -> TokenWork:
        wanted = wanted_dialect(request, {work.dialect.name for work in self._works})
        if wanted is None:
            return next(work for work in self._works if work.matches(body, request.headers))
        return next(work for work in self._works if work.dialect.name == wanted)


def _written(work: TokenWork, body: Any, state: ServerState) -> bytes:
    content = work.run(body, state)
    return content if isinstance(content, bytes) else orjson.dumps(content)


def tokenize(body: Any, state: ServerState) -> dict[str, Any]:
    """POST /tokenize. Longer than the model may be what it gets, but not without bounds."""
    form: schema.TokenizeCompletion | schema.TokenizeChat
    if isinstance(body, dict) and "messages" in body:
        form = parsed(schema.TokenizeChat, body)
    else:
        form = parsed(schema.TokenizeCompletion, body)
    model = state.models.find(form.model)
    prompt = form.prompt if isinstance(form, schema.TokenizeCompletion) else _chat_prompt(form, model, state)
    tokenizer = model.require_tokenizer()
    if isinstance(prompt, Illustrated):
        options = TokenizeOptions(MAX_WITH_IMAGES, add_special_tokens=form.add_special_tokens)
        (sequence,) = model.session.renderer.render([prompt], options)
    else:
        (sequence,) = tokenizer.encode_batch(
            [bounded(prompt, "the prompt", "prompt")], add_special_tokens=form.add_special_tokens
        )
    return tokens_reply(sequence.input_ids, model, form.return_token_strs)


def _chat_prompt(form: schema.TokenizeChat, model: ServedModel, state: ServerState) -> str | Illustrated:
    policy = state.settings.requests
    check_media(form, policy)
    options = chat_options(chat_of(form, None, policy), policy)
    if form.tools is not None:
        kwargs = {**(options.chat_template_kwargs or {}), "tools": form.tools}
        options = dataclasses.replace(options, chat_template_kwargs=kwargs)
    return model.session.prompts.chat_prompt(form.messages, options)


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


def describe(body: Any, state: ServerState) -> bytes:
    """POST /tokenize with `inputs`: one list per text, of its tokens with their places."""
    form = parsed(tei.TokenizeTexts, body)
    texts = [form.inputs] if isinstance(form.inputs, str) else form.inputs
    if not all(texts) or not texts:
        raise refuse("`inputs` cannot be empty")
    if form.prompt_name is not None:
        raise refuse(f"`prompt_name` is set to `{form.prompt_name[:100]}` but it was not found. Available prompts: []")
    tokenizer = state.models.default.require_tokenizer()
    size = sum(map(len, texts)) + len(texts) * tokenizer.num_special_tokens(is_pair=False)
    if size > MAX_DESCRIBED:
        message = f"`inputs` must have at most {MAX_DESCRIBED} characters, special tokens included. Given: {size}"
        raise refuse(message, status=413)
    # Written text by text: the objects of all of them would take ten times the memory of the reply.
    lists = [
        orjson.dumps(list(_described(tokenizer.backend.encode(text, add_special_tokens=form.add_special_tokens), text)))
        for text in texts
    ]
    return b"[" + b",".join(lists) + b"]"


def _described(encoding: Any, text: str) -> Iterator[dict[str, Any]]:
    """TEI's form of every token. A special one has its name and no place; places are bytes, as in TEI."""
    place: Sequence[int] = range(len(text) + 1)
    if not text.isascii():
        place = [0, *itertools.accumulate(len(char.encode()) for char in text)]
    parts: Iterable[Any] = zip(
        encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
    )
    for token_id, name, is_special, (start, stop) in parts:
        yield {
            "id": token_id,
            "text": name if is_special else text[start:stop],
            "special": bool(is_special),
            "start": None if is_special else place[start],
            "stop": None if is_special else place[stop],
        }


def decode(body: Any, state: ServerState) -> list[str]:
    """POST /decode: the text of every list of ids."""
    form = parsed(tei.Decode, body)
    rows: list[Any] = form.ids if form.ids and isinstance(form.ids[0], list) else [form.ids]
    if not all(rows):
        raise refuse("`ids` cannot be empty")
    tokenizer = state.models.default.require_tokenizer()
    return [tokenizer.decode(row, skip_special_tokens=form.skip_special_tokens) for row in rows]


TOKEN_ROUTES: Final = {
    "/tokenize": (TokenWork(tei.DIALECT, describe, has_key("inputs")), TokenWork(vllm_reply.DIALECT, tokenize)),
    "/detokenize": (TokenWork(vllm_reply.DIALECT, detokenize),),
    "/decode": (TokenWork(tei.DIALECT, decode),),
}
"""As `dialects.table.ROUTES`, for what needs no model call."""
