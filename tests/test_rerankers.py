"""Rerankers made of language models, end to end and with no flags: the model card's prompt, ids and score."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import llms
import tiny_models
import tiny_rerankers
from assay import LLM, ConfigError, PoolingParams, UnsupportedModelError, WeightsError
from test_score_templates import CASES
from tiny_rerankers import RERANKERS

QUERY = "how long does the battery last?"
DOCS = [text for text in tiny_models.single_texts() if len(text) < 400][:30]
RAW = PoolingParams(use_activation=False)
TEMPLATES = {
    "qwen3-reranker": "qwen3_reranker.jinja",
    "mxbai-rerank-v2": "mxbai_rerank_v2.jinja",
    "bge-reranker-v2-gemma": "bge-reranker-v2-gemma.jinja",
    "llama-nemotron-rerank": "nemotron-rerank.jinja",
}
CONVERTED = [kind for kind, spec in RERANKERS.items() if spec.labels is not None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rerankers")
    return {kind: tiny_rerankers.make(root, kind) for kind in RERANKERS}


@pytest.fixture(scope="module", params=list(RERANKERS))
def case(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[tuple[str, Path, LLM]]:
    kind = request.param
    # By name: the tiny gemma magnifies what dtype="auto" loses on AMX tiles beyond the budget (docs/kernels-linear.md).
    with LLM(folders[kind], dtype="float32") as llm:
        yield kind, folders[kind], llm


def prompt(kind: str, query: str, doc: str, instruction: str | None = None) -> list[int]:
    by_hand, make_tokenizer = CASES[TEMPLATES[kind]]
    ids: list[int] = make_tokenizer()(by_hand(query, doc, instruction))["input_ids"]
    return ids


def scores(outputs: Any) -> list[float]:
    return [output.outputs.score for output in outputs]


def test_no_flags_give_the_model_cards_prompt_and_score(case: tuple[str, Path, LLM]) -> None:
    kind, folder, llm = case
    assert f"recipe {kind}" in llm.summary
    outputs = llm.score(QUERY, DOCS)
    raw = llm.score(QUERY, DOCS, pooling_params=RAW)
    for doc, output, logit in zip(DOCS, outputs, raw, strict=True):
        assert output.prompt_token_ids == prompt(kind, QUERY, doc)
        assert llms.close(
            output.outputs.score, torch.tensor(tiny_rerankers.score(folder, kind, output.prompt_token_ids))
        )
        values = tiny_rerankers.logits(folder, kind, output.prompt_token_ids)
        expected = values[1] - values[0] if len(values) == 2 else values[0]
        assert llms.close(logit.outputs.score, expected)
    assert len(set(scores(outputs))) > len(DOCS) // 2, "a head that answers every pair alike would pass the rest"


def test_scores_do_not_depend_on_the_batch(case: tuple[str, Path, LLM]) -> None:
    _, _, llm = case
    together = scores(llm.score(QUERY, DOCS))
    assert [scores(llm.score(QUERY, doc))[0] for doc in DOCS[:8]] == together[:8]
    assert scores(llm.score(QUERY, DOCS[::-1])) == together[::-1]


@pytest.mark.parametrize("kind", CONVERTED)
def test_the_seed_pages_overrides_give_the_same(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Also under a name that says nothing: the overrides are enough to know the tokenizer's template."""
    plain = shutil.copytree(folders[kind], tmp_path / "model")
    with LLM(folders[kind]) as recipe, LLM(plain, hf_overrides=RERANKERS[kind].overrides) as override:
        assert scores(override.score(QUERY, DOCS[:8])) == scores(recipe.score(QUERY, DOCS[:8]))
        config = override.llm_engine.model_config
        assert config.hf_config.num_labels == 1
        assert config.architectures == RERANKERS[kind].overrides["architectures"]


@pytest.mark.parametrize("kind", CONVERTED)
def test_texts_that_carry_the_prompt_get_it_once(kind: str, folders: dict[str, Path]) -> None:
    """Code written before there were templates formats both sides itself; a document alone cannot claim that."""
    by_hand, _ = CASES[TEMPLATES[kind]]
    for task in (None, "Find passages about batteries"):
        text = by_hand(QUERY, "\0", task)
        query, tail = text.split("\0")
        with LLM(folders[kind], hf_overrides=RERANKERS[kind].overrides) as llm:
            outputs = llm.score(query, [doc + tail for doc in DOCS[:5]])
            assert [output.prompt_token_ids for output in outputs] == [
                prompt(kind, QUERY, doc, task) for doc in DOCS[:5]
            ]
            (half,) = llm.score(QUERY, DOCS[0] + tail)
            assert half.prompt_token_ids == prompt(kind, QUERY, DOCS[0] + tail)


def test_instructions_reach_the_prompt(folders: dict[str, Path]) -> None:
    for kind in ("qwen3-reranker", "mxbai-rerank-v2"):
        with LLM(folders[kind]) as llm:
            task = "Find passages about batteries"
            expected = prompt(kind, QUERY, DOCS[0], task)
            calls: list[dict[str, Any]] = [
                {"instruction": task},
                {"chat_template_kwargs": {"instruction": task}},
                {"chat_template_kwargs": {"instruct": task}},
            ]
            for call in calls:
                (output,) = llm.score(QUERY, DOCS[0], **call)
                assert output.prompt_token_ids == expected
                assert scores([output]) != scores(llm.score(QUERY, DOCS[0]))


def test_an_explicit_template_wins(case: tuple[str, Path, LLM]) -> None:
    _, folder, llm = case
    source = "{{ messages[0].content }} / {{ messages[1].content }}"
    expected = llm.get_tokenizer()(f"{QUERY} / {DOCS[0]}")["input_ids"]
    assert llm.score(QUERY, DOCS[0], chat_template=source)[0].prompt_token_ids == expected
    with LLM(folder, score_template=source) as other:
        assert other.score(QUERY, DOCS[0])[0].prompt_token_ids == expected


def test_truncation_keeps_the_query_and_the_template(case: tuple[str, Path, LLM]) -> None:
    kind, folder, llm = case
    long = " ".join(DOCS)
    whole = prompt(kind, QUERY, long)
    keep = len(prompt(kind, QUERY, "")) + 40
    (output,) = llm.score(QUERY, long, truncate_prompt_tokens=keep)
    assert len(output.prompt_token_ids) <= keep < len(whole)
    num_tail = 10 if kind in ("qwen3-reranker", "mxbai-rerank-v2", "bge-reranker-v2-gemma") else 1
    if kind != "llama-nemotron-rerank":  # whose template ends with the document
        assert output.prompt_token_ids[-num_tail:] == whole[-num_tail:]
    assert output.prompt_token_ids[:12] == whole[:12]
    assert llms.close(scores([output])[0], torch.tensor(tiny_rerankers.score(folder, kind, output.prompt_token_ids)))


# ---- conversions without a recipe ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stranger(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 language model that nothing marks as a reranker."""
    return shutil.copytree(folders["mxbai-rerank-v2"], tmp_path_factory.mktemp("stranger") / "model")


def test_a_language_model_without_recipe_or_head_is_refused(stranger: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"set classifier_from_token and method in hf_overrides"):
        LLM(stranger)
    with pytest.raises(WeightsError, match=r"score\.weight"):
        LLM(stranger, convert="classify")


def test_without_a_recipe_the_texts_are_joined_and_it_is_said_once(
    stranger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"}
    tokenizer = RERANKERS["mxbai-rerank-v2"].tokenizer()
    with caplog.at_level(logging.WARNING, "assay"), LLM(stranger, hf_overrides=overrides) as llm:
        for _ in range(2):
            outputs = llm.score(QUERY, DOCS[:3])
        for doc, output in zip(DOCS, outputs, strict=False):
            assert output.prompt_token_ids == tokenizer(QUERY + doc)["input_ids"]
    assert caplog.text.count("without a template") == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING, "assay"), LLM(stranger, hf_overrides=overrides) as llm:
        llm.score(QUERY, DOCS[:3], chat_template="{{ messages[0].content }}")
    assert "without a template" not in caplog.text


@pytest.mark.parametrize("head", [llms.CLASSIFIER, llms.TOKENS])
def test_an_encoder_has_no_language_model_head_to_take_rows_of(head: str) -> None:
    overrides = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"}
    with pytest.raises(ConfigError, match=f"make a head of a language model's; Bert{head} has none"):
        llms.load(head, hf_overrides=overrides)
    with llms.load(head, hf_overrides={"method": "a key of someone else's"}) as llm:
        assert llm.labels


def test_several_tokens_make_several_labels(stranger: Path) -> None:
    tokens = ["yes", "no", "0", "1", "Yes"]
    overrides = {"classifier_from_token": tokens, "method": "no_post_processing"}
    with LLM(stranger, hf_overrides=overrides) as llm:
        outputs = llm.classify(DOCS[-6:], use_tqdm=False)
        model = tiny_rerankers.reference(stranger, "mxbai-rerank-v2")
        ids = RERANKERS["mxbai-rerank-v2"].tokenizer().convert_tokens_to_ids(tokens)
        for output in outputs:
            with torch.no_grad():
                rows = model(torch.tensor([output.prompt_token_ids])).logits[0, -1, ids]
            assert llms.close(output.outputs.probs, rows.softmax(0))
            assert output.outputs.num_classes == 5
        with pytest.raises(ValueError, match=r"^Scoring API is only enabled for num_labels == 1\.$"):
            llm.score(QUERY, DOCS[0])


def test_a_backbone_with_a_score_is_a_classifier(stranger: Path, tmp_path: Path) -> None:
    """A bare model's checkpoint, whose tensors have no prefix, and a head beside it."""
    import transformers
    from safetensors.torch import load_file, save_file

    model = transformers.AutoModel.from_pretrained(stranger, dtype=torch.float32).eval()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    RERANKERS["mxbai-rerank-v2"].tokenizer().save_pretrained(folder)
    weight = torch.randn(2, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    path = folder / "model.safetensors"
    save_file({**load_file(path), "score.weight": weight}, path, metadata={"format": "pt"})
    with LLM(folder, convert="classify") as llm:
        (output,) = llm.classify(DOCS[-1], pooling_params=RAW)
        with torch.no_grad():
            state = model(torch.tensor([output.prompt_token_ids])).last_hidden_state[0, -1]
        assert llms.close(output.outputs.probs, weight @ state)


def test_embeddings_of_a_language_model(stranger: Path) -> None:
    for settings in ({"runner": "pooling"}, {"convert": "embed"}):
        with LLM(stranger, **settings) as llm:
            assert llm.pooling_task == "embed"
            (output,) = llm.embed(DOCS[-1])
            model = tiny_rerankers.reference(stranger, "mxbai-rerank-v2").model
            with torch.no_grad():
                state = model(torch.tensor([output.prompt_token_ids])).last_hidden_state[0, -1]
            assert llms.close(output.outputs.embedding, torch.nn.functional.normalize(state, dim=0))


# ---- folders that say it themselves --------------------------------------------------------------------------------


@pytest.mark.parametrize("false_token", ["no", None])
def test_a_saved_reranker_scores_as_sentence_transformers(stranger: Path, tmp_path: Path, false_token: Any) -> None:
    """Loaded by sentence-transformers from the very folder: prompt, system message and activation are the folder's."""
    st = pytest.importorskip("sentence_transformers")
    folder = shutil.copytree(stranger, tmp_path / "model")
    tokenizer = RERANKERS["mxbai-rerank-v2"].tokenizer()
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    base = st.base.modules.Transformer(
        str(folder),
        transformer_task="text-generation",
        processing_kwargs={"chat_template": {"add_generation_prompt": True}},
    )
    ids = tokenizer.convert_tokens_to_ids(["yes", *([] if false_token is None else [false_token])])
    modules = [base, st.cross_encoder.modules.LogitScore(*ids)]
    theirs = st.CrossEncoder(
        modules=modules, prompts={"query": "Judge relevance."}, default_prompt_name="query", device="cpu"
    )
    theirs.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    pairs = [(QUERY, doc) for doc in DOCS[:8] if doc.strip()]
    expected = theirs.predict(pairs, convert_to_tensor=True, batch_size=1)
    with LLM(tmp_path / "saved") as llm:
        assert "LogitScore" in llm.summary
        outputs = llm.score(QUERY, [doc for _, doc in pairs])
        assert llms.close(scores(outputs), expected.float())
        (asked,) = llm.score(QUERY, pairs[0][1], instruction="Judge something else.")
        text = llm.get_tokenizer().decode(asked.prompt_token_ids)
        assert text.startswith("<|im_start|>system\nJudge something else.<|im_end|>\n<|im_start|>query\n")
    assert json.loads((tmp_path / "saved" / "modules.json").read_text())[1]["type"].endswith("LogitScore")


# ---- classifiers with a head of their own --------------------------------------------------------------------------


def test_a_converted_copy_encodes_pairs_as_sentence_transformers(tmp_path: Path) -> None:
    """As tomaarsen/Qwen3-Reranker-0.6B-seq-cls is meant: callers format the texts, so no template stands in between."""
    st = pytest.importorskip("sentence_transformers")
    folder = tiny_rerankers.make(tmp_path, "qwen3-reranker", head="ForSequenceClassification", num_labels=1)
    reference = st.CrossEncoder(str(folder), device="cpu")
    queries = [QUERY, "is it worth it?", "price"]
    docs = [doc for doc in DOCS if doc.strip()][:3]
    expected = {
        "1:1": reference.predict([(QUERY, docs[0])], batch_size=1),
        "1:N": reference.predict([(QUERY, doc) for doc in docs], batch_size=1),
        "N:N": reference.predict(list(zip(queries, docs, strict=True)), batch_size=1),
    }
    with LLM(folder) as llm:
        found = {
            "1:1": llm.score(QUERY, docs[0]),
            "1:N": llm.score(QUERY, docs),
            "N:N": llm.score(queries, docs),
        }
        for pairing, outputs in found.items():
            assert llms.close(scores(outputs), torch.tensor(expected[pairing]).float()), pairing
        tokenizer = RERANKERS["qwen3-reranker"].tokenizer()
        assert found["1:1"][0].prompt_token_ids == tokenizer(QUERY, docs[0])["input_ids"]
        text = "\n".join(["{{ messages[0].content }}", "{{ messages[1].content }}"])
        (templated,) = llm.score(QUERY, docs[0], chat_template=text)
        assert templated.prompt_token_ids == tokenizer(f"{QUERY}\n{docs[0]}")["input_ids"]


@pytest.mark.parametrize("kind", ["qwen3-reranker", "bge-reranker-v2-gemma"])
def test_limits_give_exact_totals(kind: str, folders: dict[str, Path]) -> None:
    """The prompt loses what the query and the document lose, and the template nothing."""
    text = "A battery that lasts two days is worth the extra weight and then some more of it"
    tokenizer = RERANKERS[kind].tokenizer()
    content = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    limits = {"none": {}, "query": {"max_tokens_per_query": 10}, "doc": {"max_tokens_per_doc": 10}}
    limits["both"] = {**limits["query"], **limits["doc"]}
    with LLM(folders[kind]) as llm:
        sizes = {}
        for name, keys in limits.items():
            (output,) = llm.score(text, text, pooling_params=PoolingParams(extra_kwargs=keys))
            sizes[name] = len(output.prompt_token_ids)
        lost = content - 10
        assert lost > 0 and sizes["none"] == len(prompt(kind, text, text))
        assert sizes == {
            "none": sizes["none"],
            "query": sizes["none"] - lost,
            "doc": sizes["none"] - lost,
            "both": sizes["none"] - 2 * lost,
        }


def test_the_tokenizers_own_template_is_not_for_pairs(tmp_path: Path) -> None:
    folder = shutil.copytree(llms.folder(num_labels=1), tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with LLM(folder) as llm:
        tokenizer = llms.reference(num_labels=1)[1]
        assert llm.score(QUERY, DOCS[-1])[0].prompt_token_ids == tokenizer(QUERY, DOCS[-1])["input_ids"]


def test_the_config_in_use_can_be_read(case: tuple[str, Path, LLM]) -> None:
    kind, _, llm = case
    config = llm.llm_engine.model_config
    assert config.hf_config.num_labels == 1
    is_causal = kind != "llama-nemotron-rerank"
    assert config.attn_type == ("decoder" if is_causal else "encoder_only")
    assert config.pooler_config.seq_pooling_type == ("LAST" if is_causal else "MEAN")
    assert config.pooler_config.tok_pooling_type == "ALL"
