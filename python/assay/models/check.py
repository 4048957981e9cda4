"""What a model would be run as, or why it would not: for `assay check`, without reading weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assay.adapt import adapt
from assay.config import PoolerConfig
from assay.device_choice import choose_device
from assay.errors import AssayError
from assay.hf_config import HFConfig, read_json
from assay.models.loading import resolve_dtype
from assay.models.plan import Plan, make_plan
from assay.models.sentence_transformer import default_prompt
from assay.models.transformers_class import Outline
from assay.pooler import declared_activation
from assay.scoring import uses_separator
from assay.vocabulary import Vocabulary

if TYPE_CHECKING:
    from assay.device import Device
    from assay.files import ModelFiles
    from assay.recipes import Match

_HEAD_WORDS = {
    "token": "classifier on every token",
    "embedding": "none (embeddings)",
    "probe": "separate linear classifier on the pooled hidden state",
}


_OWN_PATH = "this package's own fused layers"
_TRANSFORMERS_PATH = "transformers' code with this package's attention and products; checked against it at start-up"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """`reason` says why `supported` is False; fields nothing is known about stay None.

    conversion: how the head is made of a language model's, and label_tokens of which tokens. recipe: how a known
    reranker scores, recipe_source by what it was recognised.
    """

    supported: bool
    reason: str | None = None
    architecture: str | None = None
    family: str | None = None
    path: str | None = None
    head: str | None = None
    conversion: str | None = None
    label_tokens: tuple[str, ...] = ()
    recipe: str | None = None
    recipe_source: str | None = None
    tasks: tuple[str, ...] = ()
    num_labels: int | None = None
    labels: tuple[str, ...] = ()
    activation: str | None = None
    activation_source: str | None = None
    pooling: str | None = None
    max_length: int | None = None
    max_length_source: str | None = None
    template: str | None = None
    tokenizer: str | None = None
    device: str | None = None
    dtype: str | None = None
    notes: tuple[str, ...] = field(default=())


def check_model(
    files: ModelFiles,
    overrides: Any = None,
    pooler_config: PoolerConfig | None = None,
    dtype: str = "auto",
    *,
    runner: str = "auto",
    convert: str = "auto",
    model_impl: str = "auto",
    device: Any = "cpu",
) -> CheckReport:
    """Read the config and tokenizer files of a model; never raises for what is wrong with the model.

    device: as `LLM` takes it; one that cannot be used is a reason why the model is not supported.
    """
    config = None
    try:
        place = choose_device(device)
        config = HFConfig.from_folder(files.folder, overrides)
        adapted = adapt(files, config, pooler_config or PoolerConfig(), runner=runner, convert=convert)
        plan = make_plan(files, adapted.hf_config, adapted.pooler_config, model_impl)
        if not files.is_partial:
            files.weight_files()
        return _report(files, plan, dtype, place, adapted.match)
    except (AssayError, RuntimeError, ValueError) as err:
        names = config.architectures if config is not None else []
        return CheckReport(supported=False, reason=str(err), architecture=names[0] if names else None)


def _report(files: ModelFiles, plan: Plan, dtype: str, place: Device, match: Match | None) -> CheckReport:
    config, activation = plan.hf_config, plan.activation
    conversion = plan.head_plan if plan.head_plan is not None and plan.head_plan.source == "lm_head" else None
    names = read_json(files.folder / "tokenizer_config.json")
    has_labels = activation is not None
    stored = config.get("dtype") or config.get("torch_dtype") or "float32"
    return CheckReport(
        supported=True,
        architecture=plan.architecture,
        family=plan.family.name,
        path=_TRANSFORMERS_PATH if isinstance(plan.family.backbone, Outline) else _OWN_PATH,
        head=_head_words(plan),
        conversion=None if conversion is None else conversion.method,
        label_tokens=() if conversion is None else tuple(config.classifier_from_token),
        recipe=None if match is None else match.recipe.name,
        recipe_source=None if match is None else match.reason,
        tasks=(plan.task, *(task for task in plan.tasks if task != plan.task)),
        num_labels=config.num_labels if has_labels else None,
        labels=tuple(config.id2label.values()) if has_labels else (),
        activation=activation.name if activation is not None else None,
        activation_source=activation.source if activation is not None else None,
        pooling="+".join(plan.tasks[plan.task]),
        max_length=plan.max_model_len,
        max_length_source=plan.max_model_len_source,
        template=_template_words(plan, match),
        tokenizer=names.get("tokenizer_class"),
        device=str(place),
        dtype=resolve_dtype(dtype, str(stored).removeprefix("torch."), place.kind)[0],
        notes=tuple(_notes(files, plan, match)),
    )


def _head_words(plan: Plan) -> str:
    if plan.head in _HEAD_WORDS:
        return _HEAD_WORDS[plan.head]
    if plan.head_plan is not None and plan.head_plan.source == "lm_head":
        return f"{plan.head_plan.method} of {len(plan.head_plan.token_ids)} rows of the language-model head"
    if isinstance(plan.family.backbone, Outline):
        return ", ".join(plan.family.backbone.head_modules)
    head = plan.head_shape
    assert head is not None
    dense = [] if head.dense is None else [f"{head.dense.format('')} + {head.dense_activation}"]
    return ", ".join([*dense, *([] if head.norm is None else [head.norm]), head.classifier])


def _template_words(plan: Plan, match: Match | None) -> str | None:
    """What renders a pair to be scored; None where none can be."""
    if plan.task != "classify" or plan.hf_config.num_labels != 1:
        return None
    if match is not None and match.recipe.template is not None:
        return match.recipe.template
    if uses_separator(plan.hf_config):
        return "none: pairs are encoded with the tokenizer's separator"
    return "none: the two texts are joined as they are"


def _notes(files: ModelFiles, plan: Plan, match: Match | None) -> list[str]:
    notes = []
    if match is None and plan.head_plan is not None and plan.head_plan.source == "lm_head":
        notes.append("a language model scores well only behind the prompt it was trained with: pass a chat template")
    if plan.head_plan is not None and Vocabulary(files.folder).chat_template is not None:
        notes.append("conversations are rendered with the chat template of the tokenizer")
    declared, source = declared_activation(plan.hf_config)
    activation = plan.activation
    if activation is not None and activation.source != source and activation.source.startswith(source):
        notes.append(
            f"{source} declares {declared}, but with {plan.hf_config.num_labels} labels that means {activation.name}, "
            f"as in vLLM; PoolerConfig(activation='sigmoid') (or 'softmax') takes the name literally"
        )
    if plan.modules is not None and not plan.modules.normalize:
        notes.append("embeddings are not normalised (no Normalize module); PoolingParams(use_activation=True) does it")
    prompt = default_prompt(files.folder)
    if prompt:
        notes.append(f"sentence-transformers puts {prompt!r} before every text by default; here the caller does")
    tokenizer_files = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
    if not any((files.folder / name).is_file() for name in tokenizer_files):
        notes.append("the folder has no tokenizer files: pass tokenizer=...")
    if plan.hf_config.get("auto_map"):
        notes.append("the repository brings its own code (auto_map), which is never executed")
    return notes
