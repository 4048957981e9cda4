"""A vision-language reranker of Qwen3-VL-2B's widths, random weights: assay against transformers, texts and pictures.

python bench/bench_vision.py [--documents N] [--layers N] [--rounds N] [--quick]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import contender
import decoder_reranker
import machine
import measure
import ours
import plot
import record
import report
import vision_reranker
from bench_rerank import CLOCKS, silence
from contender import FloatArray
from reference import reference_logits

REFERENCE_PEERS = ("transformers-bf16", "transformers-f32")


class Transformers:
    """transformers' model and image processor on padded batches, the pairs in the order of their length."""

    def __init__(self, setup: contender.Setup, dtype: str, batch_size: int) -> None:
        import torch
        from transformers import Qwen3VLForConditionalGeneration

        torch.set_num_threads(setup.num_threads)
        self.encode = vision_reranker.Encoder(setup.checkpoint)
        self.model: Any = Qwen3VLForConditionalGeneration.from_pretrained(
            setup.checkpoint, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).eval()
        self.batch_size = batch_size
        self.settings = f"{dtype}, sdpa, batches of {batch_size}"
        self.tokenize_s: float | None = None

    def score(self, query: str, documents: list[str]) -> FloatArray:
        """Raw logits [num_documents]."""
        import torch

        no, yes = decoder_reranker.answer_ids(self.encode.tokenizer)
        logits = np.empty(len(documents))
        order = sorted(range(len(documents)), key=lambda index: len(documents[index]))
        with torch.inference_mode():
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                inputs = self.encode(query, [documents[place] for place in places])
                last = self.model(**inputs, logits_to_keep=1).logits[:, -1].float()
                logits[places] = (last[:, yes] - last[:, no]).numpy()
        return logits


class Assay(ours.Assay):
    """LLM.score with pictures as content parts."""

    def score(self, query: str, documents: list[str]) -> FloatArray:
        """Raw logits [num_documents]."""
        sides = [self._side(document) for document in documents]
        outputs = self.llm.score(self._side(query), sides, pooling_params=self.params, use_tqdm=False)
        self.llm._model.backbone.features.clear()  # every call is the first that sees its pictures
        return np.array([output.outputs.score for output in outputs], dtype=np.float64)

    @staticmethod
    def _side(side: str) -> Any:
        if not vision_reranker.is_picture(side):
            return side
        return {"content": [{"type": "image_url", "image_url": {"url": side}}]}


LOADERS: dict[str, contender.Loader] = {
    "transformers-bf16": lambda setup: [Transformers(setup, "bfloat16", size) for size in setup.batch_sizes],
    "transformers-f32": lambda setup: [Transformers(setup, "float32", size) for size in setup.batch_sizes],
    "assay-bf16": lambda setup: [Assay(setup, "bfloat16")],
    "assay-f32": lambda setup: [Assay(setup, "float32")],
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--layers", type=int, default=6, help="of the tower and of the decoder")
    parser.add_argument("--rounds", type=int, default=3, help="undisturbed rounds wanted after warm-up")
    parser.add_argument("--max-rounds", type=int, help="upper limit of rounds, default: twice --rounds")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for a quiet machine per turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contenders", default=",".join(LOADERS), help="comma-separated, default: %(default)s")
    parser.add_argument("--batch-sizes", default="1,4", help="of transformers")
    parser.add_argument("--quick", action="store_true", help="3 documents, 3 layers, 2 rounds, nothing saved")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "assay-bench")
    args = parser.parse_args()
    args.contenders = args.contenders.split(",")
    unknown = set(args.contenders) - set(LOADERS)
    if unknown:
        parser.error(f"--contenders: choose from {sorted(LOADERS)}, got {sorted(unknown)}")
    if args.quick:
        args.documents, args.layers, args.rounds, args.max_rounds, args.patience = 3, 3, 2, 2, 0.0
    return args


def bench(args: argparse.Namespace) -> report.ModelResult:
    """Build, take the references, tune, and let the contenders take turns."""
    from transformers import AutoConfig

    checkpoint = vision_reranker.folder_of(args.cache, args.layers)
    config = AutoConfig.from_pretrained(checkpoint)
    works = vision_reranker.make_workloads(checkpoint, args.documents)
    reference = {
        work.name: reference_logits(checkpoint, work, checkpoint.parent, vision_reranker.compute_logits)
        for work in works
    }
    sizes = tuple(int(size) for size in args.batch_sizes.split(","))
    setup = contender.Setup(checkpoint, checkpoint.parent, args.threads, sizes, CLOCKS["wall"])
    entrants = []
    for label in args.contenders:
        candidates = LOADERS[label](setup)
        for work in works:
            entrants.append(measure.enter(label, candidates, work, reference[work.name], 1, setup.clock, args.patience))
        print(f"{label} ready", flush=True)
    measure.run_rounds(entrants, args.rounds, args.max_rounds or 2 * args.rounds, args.patience)
    gflop = {work.name: vision_reranker.useful_flops(config, work) / 1e9 for work in works}
    measurements = [entrant.measurement for entrant in entrants]
    name = f"Qwen3-VL-2B widths, {args.layers} layers each"
    return report.ModelResult(name, works, gflop, reference, measurements, {}, REFERENCE_PEERS)


def main() -> None:
    """Run, print, save."""
    args = parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    silence()
    limits = [machine.limits(args.threads, CLOCKS["wall"])]
    result = bench(args)
    limits.append(machine.limits(args.threads, CLOCKS["wall"]))
    header = record.header("vision", args.threads, limits)
    print(f"\n{args.threads} threads; {report.format_limits(report.best_limits(limits))}\n")
    print(report.format_model(result))
    if not args.quick:
        path = record.path_of("vision-qwen3-vl-2b", header)
        record.write(path, header | {"models": report.as_json([result])})
        plot.write_plot(record.picture(path), record.title(header), [result])


if __name__ == "__main__":
    main()
