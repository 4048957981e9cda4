"""The other side: transformers, eager attention, one input at a time."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

from assay.doctor.activation import apply_activation, expected_activation
from assay.doctor.trace import Trace
from assay.errors import UnsupportedModelError
from assay.files import sentence_config
from assay.hf_config import HFConfig, read_json
from assay.models.transformers_head import with_stated_bias

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from assay.doctor.inputs import Example
    from assay.doctor.language_model import LanguageModel
    from assay.doctor.trace import Array
    from assay.files import ModelFiles

NO_LIMIT = 10**9


class Reference:
    """A model run by transformers; its token ids, limits and activation are worked out apart from assay's.

    language_model: the classifier is made of one, which is run as it is.
    """

    def __init__(
        self, files: ModelFiles, task: str, dtype: str = "float32", language_model: LanguageModel | None = None
    ) -> None:
        import torch
        import transformers

        self.files, self.task, self.dtype, self.language_model = files, task, dtype, language_model
        self.config = HFConfig.from_folder(files.folder) if language_model is None else language_model.config
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(files.folder), local_files_only=True)
        self.max_length = max_length(files.folder, self.config, int(self.tokenizer.model_max_length))
        self.lowers = bool(sentence_config(files.folder).get("do_lower_case", False))
        self.head = _read_head(files.head_folder)
        self.modules = [] if self.head or language_model else _read_modules(files.folder)
        kind = "AutoModel"
        reads_images = "vision_config" in self.config
        if language_model is not None:
            kind = "AutoModelForImageTextToText" if reads_images else "AutoModelForCausalLM"
        elif reads_images:
            raise UnsupportedModelError(
                "transformers has no classifier with images: of vision-language models only those are compared, on "
                "texts, whose head is made of a language model's"
            )
        elif task in ("classify", "token_classify") and self.head is None:
            kind = (
                "AutoModelForTokenClassification" if task == "token_classify" else "AutoModelForSequenceClassification"
            )
        model_class = getattr(transformers, kind)
        if kind == "AutoModelForSequenceClassification" and self.config.get("score_bias"):
            model_class = with_stated_bias(getattr(transformers, self.config.architectures[0]), self.config)
        self.model = model_class.from_pretrained(
            str(files.folder), attn_implementation="eager", dtype=getattr(torch, dtype), local_files_only=True
        ).eval()
        labels = self.head["classifier.weight"].shape[0] if self.head else self.config.num_labels
        labels = labels if language_model is None else language_model.num_labels
        self.activation = expected_activation(self.config, int(labels))

    def encode(self, example: Example) -> tuple[list[int], list[int]]:
        """Token ids and token types, cut to the model's length by the tokenizer."""
        if self.language_model is not None:
            texts = self.language_model.texts(self.tokenizer, example)
        else:
            texts = [example.text] if example.pair is None else [example.text, example.pair]
        columns = [[text.lower() if self.lowers else text] for text in texts]
        # A batch of one: called with bare strings, transformers takes an empty second text for no second text.
        encoding = self.tokenizer(*columns, truncation=True, max_length=self.max_length)
        ids = list(encoding["input_ids"][0])
        types = encoding.get("token_type_ids")
        return ids, list(types[0]) if types else [0] * len(ids)

    def trace(self, example: Example) -> Trace:
        """Tokenise and run one input."""
        input_ids, types = self.encode(example)
        logits = self.logits(input_ids, types)
        return Trace(input_ids, types, logits, self.scores(logits))

    def logits(self, input_ids: list[int], token_type_ids: list[int]) -> Array:
        """Logits, token logits or the pooled vector of ready token ids, float64."""
        import torch

        with torch.inference_mode():
            output = self.model(**self._batch(input_ids, token_type_ids))
            if self.language_model is not None:
                logits = self.language_model.logits(self.tokenizer, output.logits[0, -1].float())
            elif self.head is None and self.task in ("classify", "token_classify"):
                logits = output.logits[0].float()
            else:
                logits = self._pooled(output.last_hidden_state[0].float())
        array: Array = logits.double().numpy()
        return array

    def hidden_states(self, input_ids: list[int], token_type_ids: list[int]) -> Array:
        """[num_tokens, hidden_size] after the last layer of the backbone, float64."""
        import torch

        with torch.inference_mode():
            output = self.model.base_model(**self._batch(input_ids, token_type_ids))
        states: Array = output.last_hidden_state[0].double().numpy()
        return states

    def _batch(self, input_ids: list[int], token_type_ids: list[int]) -> dict[str, Tensor]:
        import torch

        ids = torch.tensor([input_ids])
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "token_type_ids" in self.tokenizer.model_input_names:
            batch["token_type_ids"] = torch.tensor([token_type_ids])
        return batch

    def scores(self, logits: Array) -> Array:
        """What a user is given: after the activation, or at unit length."""
        import numpy as np

        if self.task in ("classify", "token_classify"):
            return apply_activation(self.activation, logits)
        if any(kind == "Normalize" for kind, _ in self.modules):
            return logits / max(float(np.linalg.norm(logits)), 1e-12)
        return logits

    def _pooled(self, hidden_states: Tensor) -> Tensor:
        """hidden_states [num_tokens, hidden_size] float32 through pooling and the layers after it."""
        import torch

        if self.head is not None:
            pooled = _pool(hidden_states, "mean")
            if self.task != "classify":
                return pooled
            return pooled @ self.head["classifier.weight"].float().T + self.head["classifier.bias"].float()
        vector = hidden_states
        for kind, folder in self.modules:
            if kind == "Pooling":
                modes = _pooling_modes(read_json(folder / "config.json"))
                vector = torch.cat([_pool(vector, mode) for mode in modes])
            elif kind == "Dense":
                vector = _dense(vector, folder)
            elif kind not in ("Transformer", "Dropout", "Normalize"):
                raise UnsupportedModelError(f"modules.json names a {kind} layer, which the comparison does not know")
        return vector if vector.ndim == 1 else _pool(vector, "mean")

    def shifted_positions(self, shift: int) -> AbstractContextManager[object]:
        """Within the context every token sits `shift` positions further on."""
        import torch

        stack = ExitStack()
        for name, module in self.model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
                stack.callback(setattr, module.weight, "data", module.weight.data)
                module.weight.data = torch.roll(module.weight.data, -shift, dims=0)
        return stack

    def other_hidden_activation(self, name: str) -> AbstractContextManager[object]:
        """Within the context the feed-forward blocks use the activation `name`."""
        from transformers.activations import ACT2FN

        stack = ExitStack()
        for module in self.model.modules():
            attribute = "activation" if type(module).__name__ == "FFN" else "intermediate_act_fn"
            if hasattr(module, attribute):
                stack.callback(setattr, module, attribute, getattr(module, attribute))
                setattr(module, attribute, ACT2FN[name])
        return stack


def max_length(folder: Path, config: HFConfig, tokenizer_limit: int) -> int:
    """The most tokens an input may have: the smallest of what the folder's files say."""
    limits = [tokenizer_limit, int(sentence_config(folder).get("max_seq_length") or NO_LIMIT)]
    positions = config.get("max_position_embeddings")
    if positions is not None:
        starts_after_pad = config.get("model_type") in ("roberta", "xlm-roberta", "camembert")
        limits.append(int(positions) - (int(config.get("pad_token_id", 1)) + 1 if starts_after_pad else 0))
    return min(limits)


def _read_head(folder: Path | None) -> dict[str, torch.Tensor] | None:
    if folder is None:
        return None
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(folder / "head.safetensors")
    return tensors


def _read_modules(folder: Path) -> list[tuple[str, Path]]:
    import json

    path = folder / "modules.json"
    if not path.is_file():
        return []
    return [(entry["type"].rsplit(".", 1)[-1], folder / entry["path"]) for entry in json.loads(path.read_text("utf-8"))]


def _pooling_modes(config: dict[str, Any]) -> list[str]:
    """The modes a Pooling layer lays side by side, in the order sentence-transformers does."""
    names = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    chosen = [name for name in names if config.get(f"pooling_mode_{name}")]
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else list(mode or [])
    return chosen or modes or ["mean_tokens"]


def _pool(hidden_states: Tensor, mode: str) -> Tensor:
    """hidden_states [num_tokens, hidden_size] -> [hidden_size]."""
    import torch

    count = hidden_states.shape[0]
    if mode in ("cls", "cls_token"):
        return hidden_states[0]
    if mode == "lasttoken":
        return hidden_states[-1]
    if mode in ("max", "max_tokens"):
        return hidden_states.amax(dim=0)
    if mode in ("mean", "mean_tokens"):
        return hidden_states.mean(dim=0)
    if mode == "mean_sqrt_len_tokens":
        return hidden_states.sum(dim=0) / math.sqrt(count)
    if mode in ("weightedmean", "weightedmean_tokens"):
        weights = torch.arange(1, count + 1, dtype=torch.float32).unsqueeze(1)
        return (hidden_states * weights).sum(dim=0) / weights.sum()
    raise UnsupportedModelError(f"pooling mode {mode!r} is not one the comparison knows")


def _dense(vector: Tensor, folder: Path) -> Tensor:
    from safetensors.torch import load_file

    from assay.doctor.activation import torch_module

    tensors = load_file(folder / "model.safetensors")
    out = vector @ tensors["linear.weight"].float().T
    if "linear.bias" in tensors:
        out = out + tensors["linear.bias"].float()
    config = read_json(folder / "config.json")
    activation = torch_module(str(config.get("activation_function")))
    result: Tensor = activation(out)
    return result + vector if config.get("use_residual") else result
