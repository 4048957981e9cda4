"""The heads of a plan: classifiers from the backbone's checkpoint, from rows of an LM head, or kept apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.convert import lm_head_rows
from assay.device import CPU
from assay.errors import WeightsError
from assay.layers import HEAD_ARITHMETIC, LayerNorm, Linear
from assay.models.forward_pass import EmbeddingHead, TaskHead
from assay.models.sentence_transformer import load_dense
from assay.pooler import ClassifierHead
from assay.weights import WeightMap

if TYPE_CHECKING:
    from assay.device import Device
    from assay.files import ModelFiles
    from assay.models.family import HeadShape
    from assay.models.plan import Plan
    from assay.models.transformers_head import HeadModules
    from assay.models.transformers_parts import LoadedParts

HEAD_FILE = "head.safetensors"


def head_tensors(plan: Plan, weights: WeightMap, prefix: str) -> list[str]:
    """Every tensor of the head in the backbone's checkpoint."""
    head = plan.head_shape
    if head is None:
        return []
    modules = []
    if not _is_from_lm_head(plan):
        modules.append((head.classifier, _classifier_has_bias(head, weights)))
    if head.dense is not None:
        modules.append((head.dense.format(prefix), head.dense_has_bias))
    if head.norm is not None:
        modules.append((head.norm, head.norm_has_bias))
    names = [f"{name}.weight" for name, _ in modules]
    return names + [f"{name}.bias" for name, has_bias in modules if has_bias]


def load_heads(
    plan: Plan,
    files: ModelFiles,
    classifier: ClassifierHead | None,
    device: Device = CPU,
    *,
    has_numbers: bool = True,
) -> dict[str, TaskHead]:
    """The head of every task of the plan, given that of the backbone's checkpoint; raises WeightsError.

    has_numbers: see `WeightMap`.
    """
    heads: dict[str, ClassifierHead | EmbeddingHead] = {}
    if classifier is not None:
        heads["classify"] = heads["token_classify"] = classifier
    else:
        dense = () if plan.modules is None else load_dense(files, plan.modules, device, has_numbers=has_numbers)
        heads["embed"] = heads["token_embed"] = EmbeddingHead(dense)
    if plan.head == "probe":
        assert files.head_folder is not None
        own = WeightMap([files.head_folder / HEAD_FILE], device, has_numbers=has_numbers)
        own.require(["classifier.weight", "classifier.bias"])
        heads["classify"] = _head(plan, _stored_classifier(plan, own, "classifier", has_bias=True))
        own.finish()
    return {task: TaskHead(pooling, heads[task]) for task, pooling in plan.tasks.items()}


def load_classifier(plan: Plan, weights: WeightMap, prefix: str) -> ClassifierHead | None:
    """The head that lies with the backbone, if there is one; raises WeightsError where tensors do not fit."""
    head = plan.head_shape
    if head is None:
        return None
    size = plan.shape.hidden_size
    if _is_from_lm_head(plan):
        classifier = _converted_classifier(plan, weights, prefix)
    else:
        classifier = _stored_classifier(plan, weights, head.classifier, _classifier_has_bias(head, weights))
    dense, norm = None, None
    if head.dense is not None:
        name, square = head.dense.format(prefix), (size, size)
        dense = Linear.load(weights, name, square, HEAD_ARITHMETIC, has_bias=head.dense_has_bias)
    if head.norm is not None:
        norm = LayerNorm.load(weights, head.norm, size, head.epsilon, has_bias=head.norm_has_bias)
    return _head(plan, classifier, dense, head.dense_activation, norm)


def taken_classifier(plan: Plan, parts: LoadedParts, weights: WeightMap) -> ClassifierHead | None:
    """The head of a model that transformers loaded, if it has one; weights: its checkpoint."""
    if _is_from_lm_head(plan):
        return _head(plan, _converted_classifier(plan, weights, prefix=""))
    return None if parts.classifier is None else _head(plan, parts.classifier, before=parts.before)


def _head(
    plan: Plan,
    classifier: Linear,
    dense: Linear | None = None,
    dense_activation: str = "tanh",
    norm: LayerNorm | None = None,
    before: HeadModules | None = None,
) -> ClassifierHead:
    assert plan.activation is not None
    return ClassifierHead(
        dense=dense,
        dense_activation=dense_activation,
        norm=norm,
        classifier=classifier,
        activation=plan.activation,
        logit_mean=plan.pooler_config.logit_mean,
        logit_sigma=plan.pooler_config.logit_sigma,
        before=before,
    )


def _is_from_lm_head(plan: Plan) -> bool:
    return plan.head_plan is not None and plan.head_plan.source == "lm_head"


def _classifier_has_bias(head: HeadShape, weights: WeightMap) -> bool:
    return f"{head.classifier}.bias" in weights if head.classifier_has_bias is None else head.classifier_has_bias


def _stored_classifier(plan: Plan, weights: WeightMap, name: str, has_bias: bool) -> Linear:
    num_labels, rows = plan.hf_config.num_labels, weights.shape(f"{name}.weight")[0]
    if rows != num_labels:
        raise WeightsError(
            f"config.json names {num_labels} labels (id2label or num_labels), but {name}.weight has {rows} rows"
        )
    sizes = (num_labels, plan.shape.hidden_size)
    return Linear.load(weights, name, sizes, HEAD_ARITHMETIC, has_bias=has_bias)


def _converted_classifier(plan: Plan, weights: WeightMap, prefix: str) -> Linear:
    """Rows of the language-model head, which is the word table where the embeddings are tied."""
    family = plan.family
    assert plan.head_plan is not None and family.lm_head is not None
    names = [f"{family.lm_head}.weight"]
    if plan.hf_config.get("tie_word_embeddings", family.is_tied):
        names.append(prefix + family.backbone.word_table)
    weight, bias = lm_head_rows(weights, names, plan.head_plan)
    size = plan.shape.hidden_size
    if weight.shape[1] != size:
        raise WeightsError(f"{weights.source}: the language-model head has rows of {weight.shape[1]}, not {size}")
    return Linear.pack(weight, bias, HEAD_ARITHMETIC, weights.device)
