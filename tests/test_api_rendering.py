from __future__ import annotations

import copy
import logging
from functools import cache
from typing import Any

import pytest

import tiny_models
from assay import ValidationError
from assay.rendering import Renderer
from assay.text_limits import cut_texts
from assay.tokenize_options import TokenizeOptions, tokenize_options
from assay.tokenizer import Tokenizer

LONG = "the quick brown fox jumps over the lazy dog " * 8
MAX_MODEL_LEN = 50


@cache
def _trained(name: str) -> Any:
    return tiny_models.FAMILIES[name].tokenizer()


def reference(name: str = "Bert") -> Any:
    return _trained(name)


@cache
def _ours(name: str) -> Tokenizer:
    return Tokenizer.around(copy.deepcopy(_trained(name)))


def tokenizer(name: str = "Bert") -> Tokenizer:
    return _ours(name)


def renderer(name: str = "Bert", types: int = 2) -> Renderer:
    return Renderer(tokenizer(name), vocab_size=len(reference(name)), type_vocab_size=types)


def render(prompt: Any, name: str = "Bert", first_one: int | None = None, **kwargs: Any) -> Any:
    options = tokenize_options(kwargs, MAX_MODEL_LEN)
    (sequence,) = renderer(name).render([prompt], options, [first_one])
    return sequence


# ---- tokenization_kwargs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "fields"),
    [
        (None, {}),
        ({"truncate_prompt_tokens": 7}, {"truncate_to": 7}),
        ({"truncate_prompt_tokens": -1}, {"truncate_to": 50}),
        ({"truncate_prompt_tokens": 0}, {"truncate_to": 0}),
        ({"truncation": True}, {"truncate_to": 50}),
        ({"truncation": "longest_first", "max_length": 9}, {"truncate_to": 9, "max_length": 9}),
        ({"truncation": False, "truncate_prompt_tokens": 7}, {}),
        ({"truncation": "do_not_truncate"}, {}),
        ({"truncation": None, "truncate_prompt_tokens": 7}, {"truncate_to": 7}),
        ({"padding": "max_length"}, {"pad_to": 50}),
        ({"padding": "max_length", "max_length": 20}, {"pad_to": 20, "max_length": 20}),
        ({"padding": False, "pad_prompt_tokens": 7}, {}),
        ({"padding": "do_not_pad"}, {}),
        ({"pad_prompt_tokens": -1}, {"pad_to": 50}),
        ({"truncation_side": "left"}, {"truncation_side": "left"}),
        ({"add_special_tokens": False}, {"add_special_tokens": False}),
        ({"add_special_tokens": None}, {}),
        ({"do_lower_case": True}, {"do_lower_case": True}),
        ({"needs_detokenization": True}, {}),
    ],
)
def test_options(kwargs: dict[str, Any] | None, fields: dict[str, Any]) -> None:
    before = None if kwargs is None else dict(kwargs)
    assert tokenize_options(kwargs, MAX_MODEL_LEN) == TokenizeOptions(**{"max_length": MAX_MODEL_LEN, **fields})
    assert kwargs == before


def test_truncation_may_be_an_argument() -> None:
    assert tokenize_options(None, 50, 7) == tokenize_options({"truncate_prompt_tokens": 7}, 50)
    assert tokenize_options({"truncate_prompt_tokens": 7}, 50, 7).truncate_to == 7
    with pytest.raises(ValidationError, match="contradict"):
        tokenize_options({"truncate_prompt_tokens": 8}, 50, 7)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"truncate_prompt_tokens": 51},
            "truncate_prompt_tokens=51 cannot be greater than max_model_len = 50. "
            "Please request a smaller truncation size.",
        ),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens must be an integer >= -1, got -2"),
        ({"truncate_prompt_tokens": 2.0}, "truncate_prompt_tokens must be an integer >= -1, got 2.0"),
        ({"truncation_side": "middle"}, "`truncation_side` must be either 'left' or 'right'."),
        ({"add_special_tokens": "no"}, "add_special_tokens must be True, False or None, got 'no'"),
    ],
)
def test_wrong_options(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tokenize_options(kwargs, MAX_MODEL_LEN)
    assert str(caught.value) == message


@pytest.mark.parametrize("kwargs", [{"stride": 3}, {"truncation": "only_first"}, {"padding": "longest"}])
def test_unread_options_are_warned_about(kwargs: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "assay"):
        assert tokenize_options(kwargs, MAX_MODEL_LEN) == TokenizeOptions(MAX_MODEL_LEN)
    assert next(iter(kwargs)) in caplog.text


# ---- ids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny_models.FAMILIES)
def test_ids_are_the_tokenizers(name: str) -> None:
    options = TokenizeOptions(100_000)
    inputs = tiny_models.all_inputs()
    for text, sequence in zip(inputs, renderer(name).render(list(inputs), options), strict=True):
        sides = ([text],) if isinstance(text, str) else ([text[0]], [text[1]])  # lists: a lone "" is no pair to it
        encoded = {key: values[0] for key, values in reference(name)(*sides).items()}
        assert sequence.input_ids == encoded["input_ids"]
        types = encoded.get("token_type_ids", [0] * len(sequence))
        assert (sequence.token_type_ids or [0] * len(sequence)) == types


@pytest.mark.parametrize("keep", [0, 1, 2, 3, 10, 50])
def test_truncation_without_a_side_keeps_special_tokens(keep: int) -> None:
    if keep == 0:
        with pytest.raises(ValidationError, match=r"^The decoder prompt cannot be empty$"):
            render(LONG, truncate_prompt_tokens=0)
        return
    ids = render(LONG, truncate_prompt_tokens=keep).input_ids
    assert len(ids) == keep
    if keep >= 2:
        assert ids == reference()(LONG, truncation=True, max_length=keep)["input_ids"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("keep", [1, 10, 49])
def test_truncation_with_a_side_slices(side: str, keep: int) -> None:
    whole = reference()(LONG)["input_ids"]
    part = whole[:keep] if side == "right" else whole[-keep:]
    assert render(LONG, truncate_prompt_tokens=keep, truncation_side=side).input_ids == part
    assert render(whole, truncate_prompt_tokens=keep, truncation_side=side).input_ids == part


def test_token_ids_are_cut_on_the_right_by_default() -> None:
    assert render([5, 6, 7, 8], truncate_prompt_tokens=3).input_ids == [5, 6, 7]


def test_pairs_are_truncated_longest_first() -> None:
    ids = render((LONG, "a short one"), truncate_prompt_tokens=20).input_ids
    assert ids == reference()(LONG, "a short one", truncation="longest_first", max_length=20)["input_ids"]


def test_types_stay_aligned_after_left_truncation_and_padding() -> None:
    kwargs: dict[str, Any] = {"truncate_prompt_tokens": 40, "truncation_side": "left", "pad_prompt_tokens": 50}
    sequence = render((LONG[:150], LONG[:100]), **kwargs)
    encoded = reference()(LONG[:150], LONG[:100])
    assert len(encoded["input_ids"]) > 40
    assert sequence.input_ids == encoded["input_ids"][-40:] + [reference().pad_token_id] * 10
    assert sequence.token_type_ids == encoded["token_type_ids"][-40:] + [1] * 10


def test_padding_without_types() -> None:
    sequence = render("a short one", padding="max_length")
    ids = reference()("a short one")["input_ids"]
    assert sequence.input_ids == ids + [reference().pad_token_id] * (50 - len(ids))
    assert sequence.token_type_ids is None


def test_special_tokens_can_be_left_out() -> None:
    assert (
        render("a short one", add_special_tokens=False).input_ids
        == reference()("a short one", add_special_tokens=False)["input_ids"]
    )


def test_lower_case() -> None:
    text = "The QUICK Brown Fox"
    sequence = render(text, "Roberta", do_lower_case=True)
    assert sequence.input_ids == reference("Roberta")(text.lower())["input_ids"]
    assert render((text, text), "Roberta", do_lower_case=True) == render((text.lower(), text.lower()), "Roberta")
    assert render(text, "Roberta", do_lower_case=False).input_ids == reference("Roberta")(text)["input_ids"]


# ---- limits --------------------------------------------------------------------------------------------------------


def test_exactly_the_maximum_fits() -> None:
    assert len(render([5] * MAX_MODEL_LEN)) == MAX_MODEL_LEN


@pytest.mark.parametrize("prompt", [[5] * 51, "a " * 49])
def test_too_long_is_an_error(prompt: Any) -> None:
    size = 51
    with pytest.raises(ValidationError) as caught:
        render(prompt)
    assert str(caught.value) == (
        f"This model's maximum context length is 50 tokens. However, your prompt contains {size} input tokens, which "
        f"exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
        f"(parameter=input_tokens, value={size})"
    )
    assert (caught.value.parameter, caught.value.value) == ("input_tokens", size)


def test_far_too_long_text_is_refused_unread() -> None:
    limit = MAX_MODEL_LEN * tokenizer().max_chars_per_token
    with pytest.raises(ValidationError) as caught:
        render("x" * (limit + 1))
    assert str(caught.value) == (
        f"This model's maximum context length is 50 tokens. However, your prompt contains {limit + 1} characters (more "
        f"than {limit} characters, which is the upper bound for 50 input tokens). Please reduce the length of the "
        f"input prompt. (parameter=input_text, value={limit + 1})"
    )
    assert len(render("x " * limit, truncate_prompt_tokens=-1)) == MAX_MODEL_LEN


@pytest.mark.parametrize("wrong", [-1, 10_000])
def test_token_ids_are_checked(wrong: int) -> None:
    with pytest.raises(ValidationError, match=f"^Token id {wrong} is out of vocabulary$"):
        render([5, wrong, 6])
    last = len(reference()) - 1
    assert render([0, last]).input_ids == [0, last]
    with pytest.raises(ValidationError, match=f"^Token id {last + 1} is out of vocabulary$"):
        render([last + 1])


def test_an_id_beyond_the_models_table_is_refused_even_from_text() -> None:
    small = Renderer(tokenizer(), vocab_size=10, type_vocab_size=2)
    with pytest.raises(ValidationError, match="is out of vocabulary"):
        small.render(["the quick brown fox"], TokenizeOptions(50))


def test_empty_prompts() -> None:
    with pytest.raises(ValidationError, match=r"^The decoder prompt cannot be empty$"):
        render([])
    with pytest.raises(ValidationError, match=r"^The decoder prompt cannot be empty$"):
        render("", add_special_tokens=False)
    assert render("").input_ids == reference()("")["input_ids"]


def test_lone_surrogates_are_a_validation_error() -> None:
    with pytest.raises(ValidationError, match="U\\+D800"):
        render("broken \ud800 text")


def test_without_a_tokenizer_only_ids_pass() -> None:
    bare = Renderer(None, vocab_size=10, type_vocab_size=2)
    assert bare.render([[1, 2]], TokenizeOptions(50))[0].input_ids == [1, 2]
    with pytest.raises(ValidationError, match=r"^You cannot pass text prompts when `skip_tokenizer_init=True`$"):
        bare.render(["text"], TokenizeOptions(50))
    with pytest.raises(ValidationError, match=r"^Cannot pad tokens when `skip_tokenizer_init=True`$"):
        bare.render([[1, 2]], TokenizeOptions(50, pad_to=5))


# ---- token types ---------------------------------------------------------------------------------------------------


def test_compressed_token_types() -> None:
    assert render([5, 6, 7, 8], first_one=2).token_type_ids == [0, 0, 1, 1]
    assert render([5, 6], first_one=0).token_type_ids == [1, 1]
    assert render([5, 6], first_one=2).token_type_ids is None
    assert render([5, 6], first_one=99).token_type_ids is None
    for wrong in (-1, True, "1"):
        with pytest.raises(ValidationError, match="compressed_token_type_ids must be a non-negative integer"):
            render([5, 6], first_one=wrong)  # type: ignore[arg-type]


def test_compressed_token_types_need_a_second_type() -> None:
    with pytest.raises(ValidationError, match="the model has 1 types"):
        renderer(types=1).render([[5, 6]], TokenizeOptions(50), [1])


# ---- max_tokens_per_query, max_tokens_per_doc ----------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny_models.FAMILIES)
@pytest.mark.parametrize("limit", [1, 2, 5, 10])
def test_cut_texts_fit_and_are_prefixes(name: str, limit: int) -> None:
    texts = list(tiny_models.single_texts())
    backend = tokenizer(name).backend
    for text, cut in zip(texts, cut_texts(tokenizer(name), texts, limit), strict=True):
        assert text.startswith(cut)
        assert len(backend.encode(cut, add_special_tokens=False).ids) <= limit
        if len(backend.encode(text, add_special_tokens=False).ids) <= limit:
            assert cut == text


def test_cutting_keeps_whole_characters() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    class Bytes:
        backend: Any

    alphabet = {char: index for index, char in enumerate(sorted(ByteLevel.alphabet()))}
    backend = Backend(BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    stub = Bytes()
    stub.backend = backend
    expected = {1: "a", 2: "a", 3: "aé", 4: "aéx", 0: "aéx"}
    for limit, text in expected.items():
        assert cut_texts(stub, ["aéx"], limit) == [text]  # type: ignore[arg-type]
