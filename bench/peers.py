"""The other libraries: sentence-transformers, ONNX Runtime and OpenVINO, each in the settings worth trying."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np

from contender import Clock, Contender, FloatArray, Loader, Setup
from onnx_files import export_float32, fuse_float32, quantize_int8
from padded import MAX_PAIR_TOKENS, PaddedTokenizer


class SentenceTransformers:
    """CrossEncoder.predict, which sorts by length and pads each batch itself."""

    def __init__(self, model: Any, dtype: str, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size
        self.settings = f"{dtype}, sdpa, batch {batch_size}"
        self.tokenize_s: float | None = None

    @staticmethod
    def load(setup: Setup, dtype: str) -> Any:
        """A CrossEncoder for the checkpoint."""
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(setup.num_threads)
        kwargs = {"dtype": getattr(torch, dtype), "attn_implementation": "sdpa"}
        model: Any = CrossEncoder(str(setup.checkpoint), device="cpu", max_length=MAX_PAIR_TOKENS, model_kwargs=kwargs)
        return SentenceTransformers.with_timed_preprocessing(model, setup.clock)

    @staticmethod
    def with_timed_preprocessing(model: Any, clock: Clock) -> Any:
        """The CrossEncoder, which from now on keeps the seconds of its tokenization in `preprocess_s`."""
        original, model.preprocess_s = model.preprocess, 0.0

        def timed_preprocess(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            result = original(*args, **kwargs)
            model.preprocess_s += clock() - start
            return result

        model.preprocess = timed_preprocess
        return model

    def score(self, query: str, documents: list[str]) -> FloatArray:
        """Raw logits [num_documents]."""
        from torch.nn import Identity

        self.model.preprocess_s = 0.0
        pairs = [(query, document) for document in documents]
        logits = self.model.predict(
            pairs, batch_size=self.batch_size, activation_fn=Identity(), show_progress_bar=False, convert_to_tensor=True
        )
        self.tokenize_s = self.model.preprocess_s
        return np.asarray(logits.double().numpy())


class OnnxRuntime:
    """An InferenceSession with all graph optimisations, one batch after the other."""

    def __init__(self, session: Any, tokenizer: PaddedTokenizer, name: str, batch_size: int) -> None:
        self.session, self.tokenizer, self.batch_size = session, tokenizer, batch_size
        self.settings = f"{name}, ORT_ENABLE_ALL, batch {batch_size}"
        self.tokenize_s: float | None = None

    @staticmethod
    def load(path: Path, num_threads: int) -> Any:
        """A CPU session with num_threads intra-op threads."""
        import onnxruntime as ort  # type: ignore[import-untyped]

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def score(self, query: str, documents: list[str]) -> FloatArray:
        """Raw logits [num_documents]."""
        logits = np.empty(len(documents))
        batches = self.tokenizer.batches(query, documents, self.batch_size)
        self.tokenize_s = self.tokenizer.last_s
        for batch in batches:
            logits[batch.rows] = self.session.run(["logits"], batch.inputs)[0][:, 0]
        return logits


class OpenVino:
    """A compiled model with dynamic shapes; batches go through as many infer requests as the hint asks for."""

    def __init__(self, compiled: Any, tokenizer: PaddedTokenizer, hint: str, batch_size: int) -> None:
        import openvino  # type: ignore[import-untyped]

        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.queue = openvino.AsyncInferQueue(compiled, compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.queue.set_callback(self.store)
        self.logits: FloatArray = np.empty(0)
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.settings = (
            f"runs in {precision}, {hint}, streams {compiled.get_property('NUM_STREAMS')}, batch {batch_size}"
        )
        self.tokenize_s: float | None = None

    def store(self, request: Any, rows: list[int]) -> None:
        """Called by the queue when a batch is done."""
        self.logits[rows] = request.get_output_tensor(0).data[:, 0]

    def score(self, query: str, documents: list[str]) -> FloatArray:
        """Raw logits [num_documents]."""
        self.logits = np.empty(len(documents))
        batches = self.tokenizer.batches(query, documents, self.batch_size)
        self.tokenize_s = self.tokenizer.last_s
        for batch in batches:
            self.queue.start_async(batch.inputs, batch.rows)
        self.queue.wait_all()
        return self.logits


def load_sentence_transformers(setup: Setup, dtype: str) -> list[Contender]:
    """One CrossEncoder, every batch size."""
    model = SentenceTransformers.load(setup, dtype)
    return [SentenceTransformers(model, dtype, size) for size in setup.batch_sizes]


def load_untuned_sentence_transformers(setup: Setup) -> list[Contender]:
    """One CrossEncoder, float32, the batch size that `predict` has when nobody gives one."""
    model = SentenceTransformers.load(setup, "float32")
    size = inspect.signature(model.predict).parameters["batch_size"].default
    return [SentenceTransformers(model, "float32", size)]


def load_onnx_runtime(setup: Setup, path: Path, name: str) -> list[Contender]:
    """One session, every batch size."""
    session, tokenizer = OnnxRuntime.load(path, setup.num_threads), PaddedTokenizer(setup.checkpoint, setup.clock)
    return [OnnxRuntime(session, tokenizer, name, size) for size in setup.batch_sizes]


def load_openvino(setup: Setup, precision: str) -> list[Contender]:
    """Both performance hints, every batch size; precision "auto" leaves the choice to OpenVINO."""
    import openvino

    model = openvino.convert_model(str(export_float32(setup.checkpoint, setup.cache)))
    tokenizer, found = PaddedTokenizer(setup.checkpoint, setup.clock), []
    for hint in ("LATENCY", "THROUGHPUT"):
        config: dict[str, Any] = {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": setup.num_threads}
        if precision != "auto":
            config["INFERENCE_PRECISION_HINT"] = precision
        compiled = openvino.Core().compile_model(model, "CPU", config)
        found += [OpenVino(compiled, tokenizer, hint, size) for size in setup.batch_sizes]
    return list(found)


LOADERS: dict[str, Loader] = {
    "st-f32": lambda setup: load_sentence_transformers(setup, "float32"),
    "st-f32-untuned": load_untuned_sentence_transformers,
    "st-bf16": lambda setup: load_sentence_transformers(setup, "bfloat16"),
    "ort-f32": lambda setup: load_onnx_runtime(setup, fuse_float32(setup.checkpoint, setup.cache), "float32 fused"),
    "ort-int8": lambda setup: load_onnx_runtime(setup, quantize_int8(setup.checkpoint, setup.cache), "int8 dynamic"),
    "openvino-auto": lambda setup: load_openvino(setup, "auto"),
    "openvino-f32": lambda setup: load_openvino(setup, "f32"),
}
