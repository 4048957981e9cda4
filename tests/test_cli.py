from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import tiny_models
import tiny_rerankers
from assay.cli import main
from assay.cli.app import JSON_OPTIONS
from assay.cli.guard import UsageError
from assay.cli.plan import parse_size
from assay.dotted_options import fold_dotted_options
from assay.memory import Base

CLASSIFIER = "ForSequenceClassification"


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def assay(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: str | Path, stdin: str | bytes | None = None) -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        stream = io.TextIOWrapper(io.BytesIO(data or b""), encoding="utf-8")
        if stdin is None:
            stream.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        code = stop.value.code
        return Result(0 if code is None else int(code), captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {0: "bad", 1: "fair", 2: "good"}
    folder = tmp_path_factory.mktemp("classifier")
    names = {name: i for i, name in labels.items()}
    return tiny_models.make(folder, "Bert", CLASSIFIER, num_labels=3, id2label=labels, label2id=names)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make(tmp_path_factory.mktemp("reranker"), "Bert", CLASSIFIER, num_labels=1, seed=1)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make(tmp_path_factory.mktemp("tagger"), "Bert", "ForTokenClassification", num_labels=4, seed=2)


TEXTS = ["the food was good", "the room was dirty and the service slow", "not bad"]


def test_classify_prints_json_lines_that_equal_the_library(assay: Any, classifier: Path) -> None:
    from assay import LLM

    result = assay("classify", "--model", classifier, "--json", "--quiet", *TEXTS)
    assert result.code == 0, result.err
    expected = [output.outputs.probs for output in LLM(str(classifier)).classify(TEXTS, use_tqdm=False)]
    assert [record["probs"] for record in result.records] == expected
    assert [record["text"] for record in result.records] == TEXTS
    for index, record in enumerate(result.records):
        best = max(range(3), key=lambda i, probs=record["probs"]: probs[i])
        assert record["index"] == index
        assert record["label"] == ["bad", "fair", "good"][best]
        assert record["score"] == record["probs"][best]


def test_classify_reads_files_and_stdin(assay: Any, classifier: Path, tmp_path: Path) -> None:
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join([TEXTS[0], "", TEXTS[1], "   ", TEXTS[2]]) + "\r\n", encoding="utf-8")
    objects = tmp_path / "texts.jsonl"
    objects.write_text("\n".join(json.dumps({"id": f"n{i}", "body": t}) for i, t in enumerate(TEXTS)), encoding="utf-8")
    options = ("--model", classifier, "--json", "-q")
    direct = assay("classify", *options, *TEXTS).records
    assert assay("classify", *options, lines).records == direct
    assert assay("classify", *options, "--file", lines).records == direct
    assert assay("classify", *options, "-", stdin="\n".join(TEXTS)).records == direct
    assert assay("classify", *options, stdin="\n".join(TEXTS)).records == direct
    tagged = assay("classify", *options, objects, "--text-field", "body").records
    assert [record.pop("id") for record in tagged] == ["n0", "n1", "n2"]
    assert tagged == direct
    piped = assay("classify", *options, "--jsonl", "--text_field", "body", stdin=objects.read_bytes()).records
    assert [record["probs"] for record in piped] == [record["probs"] for record in direct]


def test_classify_top_k_and_raw(assay: Any, classifier: Path) -> None:
    record = assay("classify", "-m", classifier, "--json", "-q", "--top-k", "2", TEXTS[0]).records[0]
    assert [entry["score"] for entry in record["top"]] == sorted(record["probs"], reverse=True)[:2]
    raw = assay("classify", "-m", classifier, "--json", "-q", "--raw", TEXTS[0]).records[0]
    assert sum(record["probs"]) == pytest.approx(1.0)
    assert sum(raw["probs"]) != pytest.approx(1.0)


def test_classify_prints_a_table(assay: Any, classifier: Path) -> None:
    result = assay("classify", "-m", classifier, *TEXTS)
    assert result.code == 0
    assert "label" in result.out and "the food was good" in result.out
    assert "float32" in result.err  # the start-up note: which arithmetic runs
    assert assay("classify", "-m", classifier, "--quiet", *TEXTS).err == ""


def test_classify_labels_tokens(assay: Any, tagger: Path) -> None:
    record = assay("classify", "-m", tagger, "--json", "-q", "the food").records[0]
    words = [token["token"] for token in record["tokens"]]
    assert words[0] == "[CLS]" and words[-1] == "[SEP]" and len(words) > 3
    assert all(token["label"].startswith("LABEL_") for token in record["tokens"])
    assert assay("classify", "-m", tagger, "-q", "the food").code == 0


def poisoned(model: Path, folder: Path) -> Path:
    """A copy of a model in which the word "service" makes NaN."""
    shutil.copytree(model, folder)
    word = tiny_models.wordpiece_tokenizer()("service", add_special_tokens=False)["input_ids"][0]
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][word] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(("kind", "result"), [("classifier", "label"), ("tagger", "tokens")])
def test_classify_shows_the_others_where_one_fails(
    assay: Any, kind: str, result: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = poisoned(request.getfixturevalue(kind), tmp_path / "model")
    lines = assay("classify", "-m", model, "--json", "-q", *TEXTS)
    assert [result in record for record in lines.records] == [True, False, True]
    assert "contains NaN or infinity" in lines.records[1]["error"]
    for options in ((), ("--raw",), ("--top-k", "2")):
        table = assay("classify", "-m", model, "-q", *options, *TEXTS)
        shown = " ".join(table.out.split())
        assert all(text in shown for text in TEXTS)
        assert table.out.count("failed") == 1
        assert table.code == lines.code == 1
        assert table.err.startswith("assay: 1 of 3 inputs have no result; the first is input 2: ")


def test_too_long_is_an_error_unless_truncated(assay: Any, classifier: Path) -> None:
    text = "very good " * 200
    result = assay("classify", "-m", classifier, "-q", text)
    assert result.code == 1
    assert "maximum context length is 128 tokens" in result.err
    assert "Traceback" not in result.err
    cut = assay("classify", "-m", classifier, "-q", "--json", "--truncate", text)
    assert cut.records[0]["num_tokens"] == 128
    short = assay("classify", "-m", classifier, "-q", "--json", "--truncate", "--max_length", "10", text)
    assert short.records[0]["num_tokens"] == 10


def test_rerank_sorts_best_first(assay: Any, reranker: Path, tmp_path: Path) -> None:
    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(TEXTS), encoding="utf-8")
    options = ("--model", reranker, "--query", "was the food good", "--json", "-q")
    records = assay("rerank", *options, documents).records
    scores = [record["relevance_score"] for record in records]
    assert scores == sorted(scores, reverse=True)
    assert [record["rank"] for record in records] == [1, 2, 3]
    assert sorted(record["index"] for record in records) == [0, 1, 2]
    assert [record["document"] for record in records] == [TEXTS[record["index"]] for record in records]
    assert assay("rerank", *options, "--top-n", "1", documents).records == records[:1]
    assert "relevance" not in assay("rerank", *options[:-2], "-q", documents).out


def test_score_keeps_the_order(assay: Any, reranker: Path, tmp_path: Path) -> None:
    query = "was the food good"
    options = ("--model", reranker, "--json", "-q")
    scored = assay("score", *options, query, *TEXTS).records
    ranked = assay("rerank", *options, "--query", query, *TEXTS).records
    assert [record["score"] for record in scored] == [
        record["relevance_score"] for record in sorted(ranked, key=lambda record: record["index"])
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps({"query": query, "document": text, "id": i}) for i, text in enumerate(TEXTS)))
    columns = tmp_path / "pairs.tsv"
    columns.write_text("\n".join(f"{query}\t{text}" for text in TEXTS))
    values = [record["score"] for record in scored]
    assert [record["score"] for record in assay("score", *options, "--pairs", pairs).records] == values
    assert [record["score"] for record in assay("score", *options, "--pairs", columns).records] == values


def test_rerank_with_the_demo_model_compares_embeddings(assay: Any) -> None:
    query = "How do I reset a forgotten password?"
    documents = [
        "The museum is closed on Mondays.",
        "Choose 'Forgot password' on the sign-in page and follow the link in the mail.",
        "The soup needs another pinch of salt.",
    ]
    records = assay("rerank", "--model", "demo", "--query", query, "--json", "-q", *documents).records
    assert records[0]["index"] == 1
    assert all(-1.0 <= record["relevance_score"] <= 1.0 for record in records)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["classify", "--model", "demo"], "nothing to work on"),
        (["classify", "--model", "demo", "no_such_file.txt"], "no such file: no_such_file.txt"),
        (["classify", "--model", "demo", "--file", "no_such_file.txt"], "cannot read no_such_file.txt"),
        (["classify", "--model", "demo", "--hf-overrides", "{", "x"], "--hf-overrides must be a JSON object"),
        (["classify", "--model", "demo", "--pooler-config", "[]", "x"], "--pooler-config must be a JSON object"),
        (["classify", "--model", "demo", "--pooler-config", '{"nope": 1}', "x"], "unexpected keyword argument 'nope'"),
        (["classify", "--model", "demo", "--top-k", "0", "x"], "--top-k"),
        (["classify", "x"], "--model"),
        (["rerank", "--model", "demo", "x"], "--query"),
        (["score", "--model", "demo", "only a query"], "at least one document"),
        (["classify", "--no-such-option"], "--no-such-option"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_use_is_code_2_without_traceback(assay: Any, arguments: list[str], words: str) -> None:
    result = assay(*arguments)
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err and result.out == ""


def test_bad_input_files_name_the_line(assay: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "fine"}\n{"text": 3}\n')
    assert f"{broken}, line 2: field 'text' must be a string, got int" in assay("classify", "-m", "demo", broken).err
    broken.write_text('{"text": "fine"}\n{text}\n')
    assert f"{broken}, line 2: not JSON" in assay("classify", "-m", "demo", broken).err
    broken.write_bytes(b"\xff\xfe\x00")
    result = assay("classify", "-m", "demo", broken)
    assert result.code == 2 and "not UTF-8" in result.err


def test_failures_are_code_1(assay: Any, tmp_path: Path) -> None:
    missing = assay("classify", "-m", tmp_path / "nowhere", "x")
    assert missing.code == 1
    assert "there is no such folder" in missing.err and "Traceback" not in missing.err
    assert assay("classify", "-m", "demo", "--dtype", "int3", "x").code == 1


def test_dotted_and_underscored_options_are_the_plain_ones() -> None:
    assert fold_dotted_options(
        ["a", "--pooler_config.seq-pooling-type", "MEAN", "--hf-overrides.num_labels=3"], JSON_OPTIONS
    ) == [
        "a",
        "--pooler_config",
        '{"seq_pooling_type": "MEAN"}',
        "--hf-overrides",
        '{"num_labels": 3}',
    ]
    assert fold_dotted_options(["--", "--pooler-config.x", "1"], JSON_OPTIONS) == ["--", "--pooler-config.x", "1"]


def test_pooler_config_reaches_the_model(assay: Any, classifier: Path) -> None:
    options = ("classify", "-m", classifier, "--json", "-q")
    plain = assay(*options, "--raw", TEXTS[0]).records[0]["probs"]
    shifted = assay(*options, "--raw", "--pooler_config.logit_bias", "1.5", TEXTS[0]).records[0]["probs"]
    assert [a - b for a, b in zip(plain, shifted, strict=True)] == pytest.approx([1.5] * 3, abs=1e-5)
    both = assay(*options, '--override-pooler-config={"activation": "sigmoid"}', TEXTS[0]).records[0]["probs"]
    assert sum(both) != pytest.approx(1.0)


def test_info_lists_what_is_there(assay: Any) -> None:
    import assay as package
    from assay import ops

    record = assay("info", "--json").records[0]
    assert record["version"] == package.__version__
    assert record["isa"] in record["isas"] == list(ops.available_isas())
    assert record["num_threads"] == ops.num_threads()
    assert isinstance(record["cached_models"], list)
    words = assay("info").out
    assert "ISA in use" in words and "cached models" in words
    assert str(record["cuda_problem"] or "ready") in words


def test_check_tells_the_device_or_why_it_cannot_be_had(assay: Any, classifier: Path) -> None:
    from assay.device_choice import find_cuda

    (record,) = assay("check", classifier, "--json", "--device", "cpu").records
    assert (record["device"], record["dtype"]) == ("cpu", "float32")
    problem = find_cuda().problem()
    result = assay("check", classifier, "--json", "--device", "cuda")
    (record,) = result.records
    assert record["supported"] is (problem is None)
    if problem is not None:
        assert (result.code, record["reason"]) == (1, f"device='cuda' cannot be used: {problem}")


def test_check_tells_head_and_activation(assay: Any, classifier: Path, tmp_path: Path) -> None:
    result = assay("check", classifier, "--json")
    assert result.code == 0
    record = result.records[0]
    assert record["supported"] is True
    assert record["num_labels"] == 3
    assert "softmax" in str(record["activation"])
    assert assay("check", classifier).code == 0
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModelForAnything"], "model_type": "nonsense"}')
    refused = assay("check", tmp_path)
    assert refused.code == 1
    assert "not supported" in refused.out + refused.err


def test_check_reads_no_weights_and_is_quick(classifier: Path, tmp_path: Path) -> None:
    import shutil
    import time

    for file in classifier.iterdir():
        if file.suffix == ".safetensors":
            (tmp_path / file.name).write_bytes(b"unreadable")
        else:
            shutil.copy(file, tmp_path)
    code = (
        "import sys\nfrom assay.cli import main\n"
        f"try:\n    main(['check', {str(tmp_path)!r}])\n"
        "except SystemExit as stop:\n    print(stop.code, 'torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.splitlines()[-1] == "0 False False", result.stdout + result.stderr
    assert time.perf_counter() - start < 20  # a hang, not a slow machine


def test_plan_tells_memory_and_what_fits(assay: Any, classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("plan", "--model", classifier, "--max_batch_tokens", "2048", "--threads", "2")
    result = assay(*options, "--memory", "1 TiB", "--json")
    assert result.code == 0, result.err
    record = result.records[0]
    parts = sum(record["weights"].values()) + record["arena_bytes"] + record["scratch_bytes"]
    assert record["peak_bytes"] == record["base"]["resident_bytes"] + parts
    assert record["weights_bytes"] == sum(record["weights"].values())
    assert set(record["weights"]) == {"embeddings", "layers", "head"}
    assert record["max_batch_tokens"] == 2048 and record["num_threads"] == 2
    assert record["fits"] is True and record["largest_batch_tokens"] > 2048
    monkeypatch.setattr("assay.memory.estimate.measure_base", lambda files, num_threads: Base(8 << 20, 8 << 20))
    table = assay(*options, "--memory", "10MB")
    assert table.code == 1
    for words in ("embedding tables", "activations for 2048 tokens", "expected peak", "does not fit in 9.5 MiB"):
        assert words in table.out
    assert "the longest input alone needs more" in table.out


def test_plan_refuses_what_cannot_be_loaded(assay: Any, classifier: Path, tmp_path: Path) -> None:
    wrong = assay("plan", "--model", classifier, "--memory", "much")
    assert wrong.code == 2 and "--memory must be a size" in wrong.err
    assert assay("plan", "--model", classifier, "--dtype", "float32", "--quantization", "int8").code == 1
    assert "use None or 'int8'" in assay("plan", "--model", classifier, "--quantization", "int3").err
    shutil.copy(classifier / "config.json", tmp_path)
    bare = assay("plan", "--model", tmp_path)
    assert bare.code == 1 and "neither model.safetensors" in bare.err


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("2G", 2 << 30),
        ("2 gb", 2 * 10**9),
        ("1.5MiB", 3 << 19),
        ("500MB", 500 * 10**6),
        ("4096", 4096),
        ("16 KiB", 16384),
    ],
)
def test_sizes_are_read_in_both_kinds_of_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1G", "0", "2GiBB", "2 G B", "1e9", "two"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--memory must be a size"):
        parse_size(text)


def test_module_runs_as_a_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "assay", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0
    for command in ("classify", "score", "rerank", "info", "check", "plan", "doctor"):
        assert command in result.stdout
    version = subprocess.run([sys.executable, "-m", "assay", "--version"], capture_output=True, text=True, check=False)
    assert version.returncode == 0 and version.stdout.startswith("assay ")


# ---- language models: recipes, templates, conversations ------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_rerankers.make(tmp_path_factory.mktemp("qwen3"), "qwen3-reranker")


def test_rerank_takes_a_template_and_an_instruction(assay: Any, qwen3: Path, tmp_path: Path) -> None:
    from assay import LLM

    with LLM(qwen3) as llm:
        task, mine = "Find rooms", "{{ messages[0].content }}: {{ messages[1].content }}{{ mark }}"
        calls: list[tuple[list[str], dict[str, Any]]] = [
            ([], {}),
            (["--instruction", task], {"instruction": task}),
            (["--chat-template-kwargs", '{"instruct": "Find rooms"}'], {"instruction": task}),
            (["--chat-template-kwargs.instruct", task], {"instruction": task}),
            (
                ["--chat-template", mine, "--chat_template_kwargs.mark", "!"],
                {"chat_template": mine, "chat_template_kwargs": {"mark": "!"}},
            ),
            (["--chat-template", "mxbai_rerank_v2.jinja"], {"chat_template": "mxbai_rerank_v2.jinja"}),
        ]
        for options, keywords in calls:
            result = assay("score", "-m", qwen3, "--json", "-q", *options, "good food", *TEXTS)
            assert result.code == 0, result.err
            expected = [output.outputs.score for output in llm.score("good food", TEXTS, use_tqdm=False, **keywords)]
            assert [record["score"] for record in result.records] == expected
    overrides = '{"architectures": ["Qwen3ForSequenceClassification"],"classifier_from_token": ["no", "yes"],'
    overrides += '"is_original_qwen3_reranker": true}'
    first = assay("rerank", "-m", qwen3, "--json", "-q", "--query", "good food", *TEXTS)
    second = assay("rerank", "-m", qwen3, "--json", "-q", "--hf_overrides", overrides, "--query", "good food", *TEXTS)
    assert first.code == second.code == 0 and first.records == second.records


def test_check_tells_recipe_conversion_and_template(assay: Any, qwen3: Path, classifier: Path, tmp_path: Path) -> None:
    (report,) = assay("check", qwen3, "--json").records
    assert report["supported"] and report["architecture"] == "Qwen3ForSequenceClassification"
    assert (report["conversion"], report["label_tokens"]) == ("from_2_way_softmax", ["no", "yes"])
    assert (report["recipe"], report["template"]) == ("qwen3-reranker", "qwen3_reranker.jinja")
    assert report["recipe_source"] == "its architecture, tokenizer and name"
    shown = assay("check", qwen3).out
    assert "qwen3_reranker.jinja" in shown and "label tokens" in shown
    overrides = '{"classifier_from_token": ["0"], "method": "no_post_processing"}'
    (report,) = assay("check", qwen3, "--json", "--hf-overrides", overrides).records
    assert (report["recipe"], report["template"]) == (None, "none: the two texts are joined as they are")
    assert any("pass a chat template" in note for note in report["notes"])
    (report,) = assay("check", qwen3, "--json", "--convert", "embed").records
    assert report["tasks"][0] == "embed" and report["template"] is None
    (report,) = assay("check", classifier, "--json").records
    assert report["recipe"] is report["conversion"] is None


def test_a_language_model_that_cannot_score_says_what_is_missing(assay: Any, qwen3: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(qwen3, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 1}))
    result = assay("check", folder)
    assert result.code == 1 and "set classifier_from_token and method in hf_overrides" in " ".join(result.out.split())
    result = assay("score", "-m", folder, "a", "b")
    assert result.code == 1 and "Qwen3ForCausalLM is a language model with no classification head" in result.err


def test_classify_takes_conversations(assay: Any, classifier: Path, tagger: Path, tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(json.dumps({"id": index, "messages": chat}) for index, chat in enumerate(chats)))
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    result = assay("classify", "-m", classifier, "--json", "-q", "--chat-template", template, path)
    assert result.code == 0, result.err
    assert [record["messages"] for record in result.records] == chats
    plain = assay("classify", "-m", classifier, "--json", "-q", *TEXTS)
    sizes = [record["num_tokens"] for record in plain.records]
    assert [record["num_tokens"] for record in result.records] == [size - 2 for size in sizes]
    table = assay("classify", "-m", classifier, "-q", "--chat-template", template, path)
    assert table.code == 0 and "not bad" in table.out
    table = assay("classify", "-m", tagger, "-q", "--chat-template", template, path)
    assert table.code == 0 and "3. not bad" in table.out
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(json.dumps({"text": "a"}) + "\n" + json.dumps({"messages": chats[0]}))
    assert assay("classify", "-m", classifier, mixed).code == 2
    mixed.write_text(json.dumps({"messages": "hello"}))
    result = assay("classify", "-m", classifier, mixed)
    assert result.code == 2 and "field 'messages' must be a list of objects" in result.err
