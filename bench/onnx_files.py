"""ONNX files derived from a checkpoint: plain float32, float32 with fused transformer operators, dynamic int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contender import Unavailable

OPSET = 17


def export_float32(checkpoint: Path, cache: Path) -> Path:
    """Export with dynamic batch and length. Eager attention, because its graph is the one the optimisers recognise.

    Raises Unavailable where this transformers' model cannot be traced.
    """
    target = cache / "model.onnx"
    if target.exists():
        return target
    import torch
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model: Any = AutoModelForSequenceClassification.from_pretrained(checkpoint, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    sample = tokenizer([["a question", "an answer"]] * 2, return_tensors="pt", padding=True)
    names = list(tokenizer.model_input_names)

    class Logits(torch.nn.Module):
        """The model with positional inputs and a tensor as output."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(**dict(zip(names, inputs, strict=True))).logits
            return logits

    try:
        torch.onnx.export(
            Logits().eval(),
            tuple(sample[name] for name in names),
            str(target),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "num_seqs", 1: "seqlen"} for name in names} | {"logits": {0: "num_seqs"}},
            opset_version=OPSET,
            dynamo=False,
        )
    except Exception as err:  # the exporter raises whatever the traced model raises
        raise Unavailable(f"torch.onnx.export fails with transformers {transformers.__version__}: {err!r}") from err
    return target


def fuse_float32(checkpoint: Path, cache: Path) -> Path:
    """The float32 file after ONNX Runtime's transformer optimiser (Attention, SkipLayerNormalization, BiasGelu)."""
    target = cache / "model-fused.onnx"
    if target.exists():
        return target
    from onnxruntime.transformers import optimizer  # type: ignore[import-untyped]
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint)
    fused = optimizer.optimize_model(
        str(export_float32(checkpoint, cache)),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,
    )
    fused.save_model_to_file(str(target))
    return target


def quantize_int8(checkpoint: Path, cache: Path) -> Path:
    """The fused file with int8 per-channel weights and dynamically quantized activations."""
    target = cache / "model-int8.onnx"
    if target.exists():
        return target
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]

    quantize_dynamic(
        str(fuse_float32(checkpoint, cache)),
        str(target),
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    return target
