"""Values, texts and bytes that have broken servers: what the mutator puts where something else belongs."""

from __future__ import annotations

from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    -2,
    2**31,
    -(2**31) - 1,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    2**64,
    10**400,
    0.5,
    -0.0,
    5e-324,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    " ",
    "0",
    "null",
    "text",
    "float",
    "base64",
    "bytes",
    "../../etc/passwd",
    "{{ 7 * 7 }}",
    "{% for x in range(10**9) %}{% endfor %}",
    [],
    [[]],
    [[[]]],
    [None],
    [""],
    [1],
    [-1],
    [2**70],
    [[1, 2], []],
    [1, "a", None, {}],
    {},
    {"text": None},
    {"text": "a"},
    {"content": []},
    {"content": [{"type": "text", "text": "a"}]},
    {"content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
    {"content": [{"type": "unheard-of"}]},
    [{"role": "user", "content": "a"}],
    [{"role": "user"}],
)
"""Any of them may stand in any place. NaN and the infinities are written as JavaScript would, which JSON forbids."""

TEXTS: tuple[str, ...] = (
    "\x00",
    "\ud800",
    "\udfff\ud800",
    "\ufeff",
    "\uffff",
    "\u202e\u200b\u2028",
    "[SEP] [CLS] </s> <s> <pad>",
    "e" + "\u0301" * 500,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\r\n\t\x0b\x7f",
    "x" * 5000,
    "word " * 3000,
)
"""Pieces of text; a lone surrogate cannot be encoded as UTF-8, only escaped."""

KEYS = """
model input inputs messages prompt tokens query queries documents items texts data_1 data_2 text_1 text_2 top_n top_k
user request_id priority padding cache_salt truncate_prompt_tokens truncation_side truncate truncation_direction
add_special_tokens add_generation_prompt continue_final_message chat_template chat_template_kwargs instruction
use_activation activation softmax normalize raw_scores task dimensions encoding_format embed_dtype endianness
max_tokens_per_query max_tokens_per_doc max_chunks_per_doc rank_fields return_documents return_text return_scores labels
threshold timeout_ms long_input ids skip_special_tokens prompt_name tools parameters mm_processor_kwargs media_io_kwargs
__proto__ constructor
""".split()
"""Names that some route reads, and two that only JavaScript fears."""

ROUTES = """
/classify /v1/classify /score /v1/score /rerank /v1/rerank /v2/rerank /pooling /predict /tokenize /detokenize /decode
/invocations /v1/embeddings / /info /health /metrics /v1/models /nowhere
""".split()
"""Where a body may be sent instead of where it belongs."""

CONTENT_TYPES = (
    "application/json; charset=utf-16",
    "application/json;charset=latin-1",
    "APPLICATION/JSON",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "application/json, application/json",
    "/",
    "",
)

HEADERS = (
    ("X-Request-Id", "a" * 4000),
    ("X-Request-Id", "\xff\xfe"),
    ("X-Request-Id", ""),
    ("Authorization", "Bearer"),
    ("Authorization", "Basic !!!"),
    ("Api-Key", "\xe9"),
    ("Content-Encoding", "gzip"),
    ("Accept", "application/octet-stream"),
    ("Accept-Encoding", "identity;q=0"),
    ("X-Forwarded-For", "a, b, c"),
    ("Origin", "null"),
    ("traceparent", "00-zz-zz-00"),
)
"""Header values are Latin-1."""
