"""The models behind the clients' calls, the server in front of them, and what the library itself answers."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import Case
from checkpoints import checkpoint_folder, minilm_folder
from live_server import LiveServer, assay_command, free_port
from texts import DOCUMENTS, LONG_TEXT, QUERY, TEXTS

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "clients"
MAX_QUEUED_TOKENS = 2048
"""Little enough that one big request fills the queue."""
NAMES = {"rerank": "reranker", "classify": "classifier", "embed": "embedder", "models": "reranker"}
"""Kind of call to the name of the model that is served for it."""


def reranker_folder() -> Path:
    """MiniLM with one label, whose config asks for raw logits: dialects that want 0..1 must not get those."""
    folder = BUILD / "reranker"
    if not (folder / "config.json").exists():
        shutil.copytree(checkpoint_folder("minilm", BUILD / "cache"), folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text())
        config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
        (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def model_source(name: str) -> str:
    """Where the model of that name is."""
    sources = {"reranker": reranker_folder, "classifier": lambda: "demo", "embedder": minilm_folder}
    return str(sources[name]())


@dataclass(frozen=True, slots=True)
class Expected:
    """What a client must get, by the library called directly. long_scores, long_probs: with the long text, cut."""

    scores: list[float]
    probs: list[list[float]]
    labels: list[str]
    embeddings: list[list[float]]
    long_scores: list[float]
    long_probs: list[list[float]]


def expected(name: str) -> Expected:
    """The answers of `LLM` for the model of that name; lists that it has no answer to are empty."""
    from assay import LLM

    with LLM(model_source(name)) as llm:
        if name == "reranker":
            scores = [output.outputs.score for output in llm.score(QUERY, DOCUMENTS, use_tqdm=False)]
            cut = llm.score(QUERY, [*DOCUMENTS, LONG_TEXT], truncate_prompt_tokens=-1, use_tqdm=False)
            return Expected(scores, [], [], [], [output.outputs.score for output in cut], [])
        if name == "classifier":
            probs = [output.outputs.probs for output in llm.classify(TEXTS, use_tqdm=False)]
            texts = [*TEXTS, LONG_TEXT]
            cut_texts = llm.classify(texts, truncate_prompt_tokens=-1, use_tqdm=False)
            long_probs = [output.outputs.probs for output in cut_texts]
            id2label = json.loads((ROOT / "python/assay/demo_model/config.json").read_text())["id2label"]
            return Expected([], probs, [id2label[str(i)] for i in range(len(id2label))], [], [], long_probs)
        embeddings = [output.outputs.embedding for output in llm.embed(TEXTS, use_tqdm=False)]
        return Expected([], [], [], embeddings, [], [])


def start_server(name: str) -> LiveServer:
    """A server for the model of that name, with a queue that is soon full."""
    port = free_port()
    flags = ["--served-model-name", name, "--max-queued-tokens", str(MAX_QUEUED_TOKENS)]
    return LiveServer(assay_command(model_source(name), port, *flags), port, BUILD / f"server-{name}.log")


def value_wanted(case: Case, truth: Expected, *, is_long: bool = False) -> Any:
    """What the client program must return for the case."""
    if case.kind == "models":
        return [NAMES["models"]]
    if case.kind == "embed":
        return truth.embeddings
    if case.kind == "classify":
        rows = truth.long_probs if is_long else truth.probs
        if case.wants_probabilities:
            return [dict(zip(truth.labels, probs, strict=True)) for probs in rows]
        return rows
    scores = truth.long_scores if is_long else truth.scores
    if case.wants_probabilities:
        scores = [1.0 / (1.0 + math.exp(-score)) for score in scores]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [{"index": index, "score": scores[index]} for index in order]


def difference(got: Any, wanted: Any, tolerance: float = 1e-6) -> str | None:
    """Where `got` is not `wanted`, None if nowhere. Numbers may differ by rounding to text; further keys are free."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return next((d for key in wanted if (d := difference(got.get(key), wanted[key], tolerance))), None)
    if isinstance(wanted, list) and isinstance(got, list) and len(got) == len(wanted):
        return next((d for a, b in zip(got, wanted, strict=True) if (d := difference(a, b, tolerance))), None)
    if isinstance(wanted, float) and isinstance(got, float):
        return None if abs(got - wanted) <= tolerance * max(1.0, abs(wanted)) else f"got {got}, wanted {wanted}"
    return None if got == wanted else f"got {str(got)[:200]}, wanted {str(wanted)[:200]}"
