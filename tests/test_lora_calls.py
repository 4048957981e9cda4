"""Calls that name adapters: one or one per prompt, in batches, from threads, cached, evicted, and refused."""

from __future__ import annotations

import gc
import itertools
import shutil
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llms
from assay import LLM, ConfigError, NonFiniteError, PoolingParams, SelfCheckError, ValidationError
from assay.batch import Sequence, pack
from assay.forward import Request, run_batch
from assay.llm import startup
from assay.llm.adapters import Adapters
from assay.lora.request import LoRARequest
from lora_adapters import adapted_model, exact_results, request, results, save_adapter

TEXTS = ["A calm day.", "Nothing works, and nobody answered!", "the lazy dog", "A calm day.", "price: $1,299.99"]
QUERY, DOCS = "the lazy dog", ["A calm day.", "a battery", "the quick brown fox jumps"]


@dataclass(frozen=True)
class Saved:
    """Adapters a and b of the shared classifier, and PEFT's models of them."""

    a: LoRARequest
    b: LoRARequest
    models: dict[str, Any]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    root, (model, _) = tmp_path_factory.mktemp("adapters"), llms.reference()
    models = {name: save_adapter(model, root / name, seed=seed) for seed, name in enumerate("ab")}
    return Saved(request(root / "a", "a"), request(root / "b", "b"), models)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with llms.load(enable_lora=True, max_loras=2) as made:
        yield made


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The adapters that LLMs made from now on load, by name, in order."""
    made: list[str] = []
    load_adapter = startup.load_adapter

    def recorded(lora_request: LoRARequest, **settings: Any) -> Any:
        made.append(lora_request.lora_name)
        return load_adapter(lora_request, **settings)

    monkeypatch.setattr(startup, "load_adapter", recorded)
    return made


def probs(llm: LLM, lora_request: Any = None, texts: list[str] = TEXTS) -> list[list[float]]:
    outputs = llm.classify(texts, lora_request=lora_request, use_tqdm=False)
    return [output.outputs.probs for output in outputs]


# ---- one request, or one per prompt --------------------------------------------------------------------------------


def test_every_way_to_call_gives_peft_s_results(llm: LLM, saved: Saved) -> None:
    ids = [[5, 6, 7], [8], [9, 10, 11, 12]]
    exact = exact_results(saved.models["a"], ids)
    prompts, params = [{"prompt_token_ids": row} for row in ids], PoolingParams(use_activation=False)
    classified = llm.classify(prompts, pooling_params=params, lora_request=saved.a, use_tqdm=False)
    for output, logits in zip(classified, exact, strict=True):
        assert llms.close(output.outputs.probs, logits)
        assert output.outputs.num_classes == 3
    for row, logits in zip(results(llm, saved.a, ids), exact, strict=True):
        assert llms.close(row, logits)
    (row,) = llm.load_adapter(saved.a).model.run(pack([Sequence(ids[0])]), [False])
    assert torch.equal(row, results(llm, saved.a, ids[:1])[0])


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_request_per_prompt_gives_what_single_calls_give(llm: LLM, saved: Saved, kind: Any) -> None:
    asked = [saved.a, None, saved.b, saved.b, saved.a]
    singles = [probs(llm, each, [text])[0] for text, each in zip(TEXTS, asked, strict=True)]
    assert singles[0] != singles[3], "the same text, by two adapters"
    outputs = llm.classify(TEXTS, lora_request=kind(asked), use_tqdm=False)
    assert [output.outputs.probs for output in outputs] == singles
    assert probs(llm, [None] * 5) == probs(llm)


def test_two_adapters_of_one_name_keep_apart(llm: LLM, saved: Saved) -> None:
    """Requests of one name are equal, as in vLLM, but what each names is the adapter in its folder."""
    other = LoRARequest("a", 2, saved.b.lora_path)
    assert other == saved.a
    assert probs(llm, [saved.a, other, None], TEXTS[:1] * 3) == [
        probs(llm, each, TEXTS[:1])[0] for each in (saved.a, saved.b, None)
    ]


def test_many_prompts_of_three_models_come_back_in_order(llm: LLM, saved: Saved) -> None:
    asked = [each for _, each in zip(range(90), itertools.cycle([saved.a, None, saved.b]), strict=False)]
    texts = [f"{TEXTS[place % 5]} {place}" for place in range(90)]
    expected = {each and each.lora_name: probs(llm, each, texts) for each in (saved.a, None, saved.b)}
    wanted = [expected[each and each.lora_name][place] for place, each in enumerate(asked)]
    assert probs(llm, asked, texts) == wanted


def test_one_batch_is_computed_model_by_model(llm: LLM, saved: Saved) -> None:
    base, a, b = llm.session.model, adapted_model(llm, saved.a), adapted_model(llm, saved.b)
    rows = [[5, 6, 7], [8, 9], [5, 6, 7], [5, 6, 7], [5, 6, 7], [8, 9], [5, 6, 7]]
    models = [a, b, None, b, a, b, None]
    sink: Any = None
    requests = [
        Request(Sequence(row), False, None, sink, index, model)
        for index, (row, model) in enumerate(zip(rows, models, strict=True))
    ]
    outcomes = run_batch(base, requests)
    alone = [run_batch(base, [each])[0] for each in requests]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(outcomes, alone, strict=True))
    assert len({tuple(outcomes[place].tolist()) for place in (0, 1, 2, 3)}) == 4


def test_threads_may_name_different_adapters(saved: Saved) -> None:
    """With room for one, each of them lets go of what another still uses."""
    with llms.load(enable_lora=True) as llm, ThreadPoolExecutor(6) as pool:
        asked = [saved.a, saved.b, None] * 8
        expected = {each and each.lora_name: probs(llm, each) for each in asked[:3]}
        for each, found in zip(asked, pool.map(lambda each: probs(llm, each), asked), strict=True):
            assert found == expected[each and each.lora_name]


def test_cached_results_are_those_of_the_adapter(saved: Saved) -> None:
    with llms.load(enable_lora=True, max_loras=2) as llm:
        expected = [probs(llm, each) for each in (saved.a, None, saved.b)]
    with llms.load(enable_lora=True, max_loras=2, result_cache_bytes=1 << 20) as llm:
        for _ in range(2):
            assert [probs(llm, each) for each in (saved.a, None, saved.b)] == expected
        hits = llm.session.engine.stats().cache_hits
        assert hits >= 3 * len(TEXTS)
        again = LoRARequest("a", 1, saved.a.lora_path, load_inplace=True)
        assert probs(llm, again) == expected[0]
        assert llm.session.engine.stats().cache_hits < hits + len(set(TEXTS)), "of files that may have changed"


# ---- what stays loaded ---------------------------------------------------------------------------------------------


def test_the_least_recently_used_adapter_goes_and_comes_back(saved: Saved, loads: list[str]) -> None:
    with llms.load(enable_lora=True) as llm:
        first, second = probs(llm, saved.a), probs(llm, saved.b)
        gone = weakref.ref(adapted_model(llm, saved.b))
        assert (probs(llm, saved.b), probs(llm, saved.a), probs(llm, saved.a)) == (second, first, first)
        gc.collect()
        assert gone() is None and loads == ["a", "b", "a"]
        mixed = probs(llm, [saved.b, saved.a, saved.b, None, saved.a])
        assert mixed[:2] == [second[0], first[1]] and loads == ["a", "b", "a", "b", "a"]


def test_as_many_adapters_stay_as_the_larger_limit_says(saved: Saved, loads: list[str]) -> None:
    with llms.load(enable_lora=True, max_loras=1, max_cpu_loras=2) as llm:
        for each in (saved.a, saved.b, saved.a, LoRARequest("c", 3, saved.b.lora_path), saved.a, saved.b):
            probs(llm, each)
    assert loads == ["a", "b", "c", "b"]


def test_threads_that_name_one_adapter_at_once_load_it_once() -> None:
    """A whole model may be merged for it: no thread does that for nothing."""
    loaded, barrier, slow = [], threading.Barrier(4), threading.Event()

    def make(lora_request: LoRARequest) -> Any:
        loaded.append(lora_request.lora_name)
        slow.wait(0.05)
        return object()

    adapters = Adapters(make, 1)

    def ask(_: int) -> Any:
        barrier.wait(10)
        return adapters.model(LoRARequest("a", 1, "/a"))

    with ThreadPoolExecutor(4) as pool:
        assert len(set(map(id, pool.map(ask, range(4))))) == 1
    assert loaded == ["a"]


@pytest.mark.parametrize("whole", [None, ["word_embeddings"]], ids=["low rank", "with a whole table"])
def test_changed_files_are_read_where_the_request_says_so(saved: Saved, tmp_path: Path, whole: Any) -> None:
    model, _ = llms.reference()
    one, two, folder = tmp_path / "one", tmp_path / "two", tmp_path / "a"
    for seed, path in enumerate((one, two)):
        save_adapter(model, path, seed=seed, modules_to_save=whole)
    shutil.copytree(one, folder)
    lora_request = request(folder)
    with llms.load(enable_lora=True, max_loras=3) as llm:
        old, new = (probs(llm, request(path, path.name)) for path in (one, two))
        assert old != new and probs(llm, lora_request) == old
        shutil.copytree(two, folder, dirs_exist_ok=True)  # into the same files, which may be mapped
        assert probs(llm, lora_request) == old
        assert probs(llm, request(folder, load_inplace=True)) == new
        assert probs(llm, lora_request) == new


def test_an_llm_is_freed_with_its_adapters(saved: Saved) -> None:
    before = set(threading.enumerate())
    llm = llms.load(enable_lora=True)
    probs(llm, saved.a)
    alive = [weakref.ref(each) for each in (llm, llm.session.model, adapted_model(llm, saved.a))]
    own = [each for each in set(threading.enumerate()) - before if each.name.startswith("assay-")]
    assert own
    del llm
    gc.collect()
    for thread in own:
        thread.join(5)
    gc.collect()
    assert [each() for each in alive] == [None] * 3


# ---- scores --------------------------------------------------------------------------------------------------------


def test_a_cross_encoder_scores_with_adapters(tmp_path: Path) -> None:
    model, tokenizer = llms.reference(num_labels=1)
    adapted = save_adapter(model, tmp_path / "a")
    pairs = [tokenizer(QUERY, doc, return_tensors="pt") for doc in DOCS]
    with torch.no_grad():
        exact = [adapted.double()(**pair).logits[0].sigmoid() for pair in pairs]
    lora_request = request(tmp_path / "a")
    with llms.load(num_labels=1, enable_lora=True) as llm:
        plain = [output.outputs.score for output in llm.score(QUERY, DOCS, use_tqdm=False)]
        scores = [output.outputs.score for output in llm.score(QUERY, DOCS, lora_request=lora_request, use_tqdm=False)]
        mixed = llm.score(QUERY, DOCS, lora_request=[None, lora_request, None], use_tqdm=False)
    assert all(llms.close([score], row) for score, row in zip(scores, exact, strict=True))
    assert [output.outputs.score for output in mixed] == [plain[0], scores[1], plain[2]]


def test_scores_need_one_label_of_the_adapter(tmp_path: Path, saved: Saved, llm: LLM) -> None:
    model, _ = llms.reference(num_labels=1)
    save_adapter(model, tmp_path / "one")
    assert 0 < llm.score(QUERY, DOCS, lora_request=request(tmp_path / "one"), use_tqdm=False)[0].outputs.score < 1
    for wrong in (None, saved.a, [request(tmp_path / "one"), None, None]):
        with pytest.raises(ValidationError, match=r"Scoring API is only enabled for num_labels == 1\."):
            llm.score(QUERY, DOCS, lora_request=wrong, use_tqdm=False)


def test_embeddings_are_compared_under_one_adapter(tmp_path: Path) -> None:
    model, _ = llms.reference(llms.MODEL)
    for seed, name in enumerate("ab"):
        save_adapter(model, tmp_path / name, seed=seed, target_modules=["query", "value"])
    a, b = (request(tmp_path / name, name) for name in "ab")
    with llms.load(llms.MODEL, enable_lora=True, max_loras=2) as llm:
        embedded = llm.embed([QUERY, *DOCS], lora_request=a, use_tqdm=False)
        rows = [torch.tensor(output.outputs.embedding) for output in embedded]
        expected = [float(torch.dot(rows[0], row)) for row in rows[1:]]
        for asked in (a, [a, a, a]):
            scored = llm.score(QUERY, DOCS, lora_request=asked, use_tqdm=False)
            assert [output.outputs.score for output in scored] == pytest.approx(expected, abs=1e-5)
        plain = [output.outputs.score for output in llm.score(QUERY, DOCS, use_tqdm=False)]
        assert plain != pytest.approx(expected, abs=1e-3)
        for mixed in ([a, b, a], [None, a, a]):
            with pytest.raises(ValidationError, match="embeddings of different adapters cannot be compared"):
                llm.score(QUERY, DOCS, lora_request=mixed, use_tqdm=False)


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["classify", "encode", "reward", "score"])
def test_wrong_requests(method: str) -> None:
    a, llm = LoRARequest("a", 1, "/a"), llms.shared(num_labels=1)
    first, keys = (QUERY,) if method == "score" else (), {"pooling_task": "classify"} if method == "encode" else {}
    if method == "reward":
        llm = llms.shared(llms.TOKENS)

    def refusal(lora_request: Any, llm: LLM) -> str:
        with pytest.raises(ValidationError) as caught:
            getattr(llm, method)(*first, DOCS, lora_request=lora_request, use_tqdm=False, **keys)
        return str(caught.value)

    lengths = "The lengths of prompts (3) and lora_request (2) must be the same."
    assert refusal([a, a], llm) == lengths
    assert refusal("a", llm) == "lora_request must be a LoRARequest, got str"
    assert refusal([None, None, {}], llm) == "lora_request must be a LoRARequest, got dict"
    assert refusal(a, llm) == f"Got lora_request {a} but LoRA is not enabled!"


def test_ids_begin_at_one_and_paths_are_there(llm: LLM) -> None:
    with pytest.raises(ValidationError, match=r"^id must be > 0, got 0$"):
        LoRARequest("a", 0, "/a")
    with pytest.raises(ConfigError, match=r"^No adapter found for /no/such$"):
        probs(llm, LoRARequest("a", 1, "/no/such"))
    with pytest.raises(ConfigError, match="is_3d_lora_weight=True is not supported"):
        probs(llm, LoRARequest("a", 1, "/a", is_3d_lora_weight=True))


def test_int8_takes_no_adapters() -> None:
    with pytest.raises(ConfigError, match=r"enable_lora=True and quantization='int8' do not go together"):
        llms.load(enable_lora=True, quantization="int8")


def test_an_adapter_that_cannot_be_right_is_refused(saved: Saved, tmp_path: Path) -> None:
    model, _ = llms.reference()
    for name in ("nan", "zero"):
        save_adapter(model, tmp_path / name)
        path = tmp_path / name / "adapter_model.safetensors"
        tensors = load_file(path)
        tensors["base_model.model.classifier.weight"].fill_(float("nan") if name == "nan" else 0.0)
        save_file(tensors, path)
    with llms.load(enable_lora=True) as llm:
        plain = probs(llm)
        for _ in range(2):
            with pytest.raises(SelfCheckError, match="the model's logits contain NaN or infinity"):
                probs(llm, request(tmp_path / "nan"))
            with pytest.raises(SelfCheckError, match="two different inputs gave exactly the same logits"):
                probs(llm, request(tmp_path / "zero"))
        assert probs(llm) == plain and probs(llm, saved.a) != plain
    with llms.load(enable_lora=True, self_check=False) as llm, pytest.raises(NonFiniteError):
        probs(llm, request(tmp_path / "nan"))
