"""Decoders' checkpoints and configs: names as on the Hub, strictness, heads, limits, and refusals by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from assay.batch import Sequence
from assay.config import PoolerConfig
from assay.errors import ConfigError, UnsupportedModelError, WeightsError
from assay.files import resolve_model
from assay.models import check_model
from parity import float32_budget, hf_logits, load, max_error, run
from tiny_decoders import CASES, LENGTHS, TinyDecoder, answers, make_model, save
from tiny_models import byte_bpe_tokenizer

LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
SHORT = [idx for idx, length in enumerate(LENGTHS) if length <= 64]


@pytest.fixture
def copy(tmp_path_factory, tmp_path):
    """A case's checkpoint under other tensor names: copy(name, change), `change` taking and returning the tensors."""

    def make(name, change=dict, **values):
        folder = tmp_path / name
        folder.mkdir()
        source = answers(tmp_path_factory, name).folder
        tensors = {key: value.contiguous() for key, value in change(load_file(source / "model.safetensors")).items()}
        save_file(tensors, folder / "model.safetensors")
        config = {**json.loads((source / "config.json").read_text(encoding="utf-8")), **values}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    return make


def matches(folder, expected, **options):
    ours = run(load(folder, **options), [Sequence(expected.ids[idx]) for idx in SHORT])
    return max_error(ours, [expected.float32[idx] for idx in SHORT]) <= float32_budget(expected.float32)


@pytest.mark.parametrize(
    ("name", "prefix"), [("llama", "model."), ("gpt2", "transformer."), ("modernbert", "model."), ("gte", "new.")]
)
def test_a_backbone_without_its_prefix_is_found(copy, name, prefix, tmp_path_factory):
    if name == "gte":  # its pooler goes by the backbone's prefix
        folder = copy(name, lambda tensors: {key.removeprefix(prefix): value for key, value in tensors.items()})
    else:
        heads = ("score", "head", "classifier")
        folder = copy(
            name,
            lambda tensors: {
                key if key.startswith(heads) else key.removeprefix(prefix): value for key, value in tensors.items()
            },
        )
    assert not any(key.startswith(prefix) for key in load_file(folder / "model.safetensors"))
    assert matches(folder, answers(tmp_path_factory, name))


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("llama", "lm_head.weight"),
        ("qwen3-token", "lm_head.weight"),
        ("gpt2", "transformer.h.1.attn.bias"),
        ("gpt2", "transformer.h.1.attn.masked_bias"),
    ],
)
def test_known_extras_are_ignored(copy, name, extra, tmp_path_factory):
    folder = copy(name, lambda tensors: {**tensors, extra: torch.zeros(3)})
    assert matches(folder, answers(tmp_path_factory, name))


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("llama", "model.layers.0.self_attn.q_proj.bias"),
        ("qwen2", "model.layers.0.self_attn.q_norm.weight"),
        ("gpt2", "transformer.h.0.crossattention.c_attn.weight"),
        ("modernbert", "model.layers.0.attn_norm.weight"),
        ("gte", "new.encoder.layer.0.mlp.up_gate_proj.bias"),
    ],
)
def test_a_tensor_the_architecture_has_no_use_for_is_an_error(copy, name, extra):
    folder = copy(name, lambda tensors: {**tensors, extra: torch.zeros(3)})
    with pytest.raises(WeightsError, match=rf"no use for: {extra}"):
        load(folder)


@pytest.mark.parametrize("name", ["llama-biases", "qwen2", "qwen3", "gemma3", "gpt2", "modernbert-mean", "gte"])
def test_every_missing_tensor_is_named(copy, name, tmp_path_factory):
    names = sorted(load_file(answers(tmp_path_factory, name).folder / "model.safetensors"))
    for missing in names[:: max(1, len(names) // 6)]:
        folder = copy(name, lambda tensors, missing=missing: {k: v for k, v in tensors.items() if k != missing})
        with pytest.raises(WeightsError, match=missing.replace(".", r"\.")):
            load(folder)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_a_score_bias_in_the_checkpoint_is_used(copy, tmp_path_factory):
    bias = torch.tensor([1.0, -2.0, 3.0])
    expected = answers(tmp_path_factory, "qwen2")
    folder = copy("qwen2", lambda tensors: {**tensors, "score.bias": bias})
    ours = run(load(folder), [Sequence(ids) for ids in expected.ids[:4]])
    assert max_error(ours, [row + bias for row in expected.float32[:4]]) <= float32_budget(expected.float32)


@pytest.mark.parametrize("name", ["qwen3", "llama", "gemma2", "gpt2"])
def test_a_conversion_is_the_full_language_model_head_at_its_tokens(name, tmp_path, tmp_path_factory):
    case = CASES[name]
    head = "LMHeadModel" if name == "gpt2" else "ForCausalLM"
    model = make_model(TinyDecoder(case.class_name, head, {**case.config, "final_logit_softcapping": None}))
    folder = save(model, tmp_path / "lm", {"architectures": [f"{case.class_name}ForSequenceClassification"]})
    tokens = {f"t{idx}": idx for idx in range(160)}
    tokenizer = {"version": "1.0", "model": {"type": "WordLevel", "vocab": tokens, "unk_token": "t0"}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    ids = answers(tmp_path_factory, name).ids[:12]
    with torch.inference_mode():
        full = [model(torch.tensor([row])).logits[0, -1].float() for row in ids]
    two_way = load(folder, classifier_from_token=["t7", "t90"], method="from_2_way_softmax")
    assert (two_way.num_labels, two_way.activation_name) == (1, "sigmoid")
    ours = run(two_way, [Sequence(row) for row in ids], use_activation=True)
    exact = [row[[7, 90]].softmax(0)[1:] for row in full]
    assert max_error(ours, exact) <= 1e-4
    rows = load(folder, classifier_from_token=["t7", "t90", "t5"], method="no_post_processing")
    ours = run(rows, [Sequence(row) for row in ids])
    exact = [row[[7, 90, 5]] for row in full]
    assert max_error(ours, exact) <= float32_budget(exact)


@pytest.mark.parametrize(("kind", "num_labels"), [("ForRewardModel", 1), ("ForProcessRewardModel", 2)])
def test_qwen2_reward_heads_run_on_every_token(copy, kind, num_labels, tmp_path_factory):
    from transformers import Qwen2Model

    generator = torch.Generator().manual_seed(3)
    shapes = {"score.0.weight": (48, 48), "score.0.bias": (48,), "score.2.weight": (num_labels, 48)}
    shapes["score.2.bias"] = (num_labels,)
    head = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    folder = copy(
        "qwen2",
        lambda tensors: {**{key: value for key, value in tensors.items() if key != "score.weight"}, **head},
        architectures=[f"Qwen2{kind}"],
    )
    model = load(folder)
    assert (model.task, model.num_labels, model.supported_tasks) == ("token_classify", num_labels, ("token_classify",))
    assert model.default_use_activation == (kind == "ForProcessRewardModel")
    backbone = Qwen2Model.from_pretrained(answers(tmp_path_factory, "qwen2").folder, attn_implementation="eager").eval()
    ids = answers(tmp_path_factory, "qwen2").ids[:8]
    with torch.inference_mode():
        states = [backbone(torch.tensor([row])).last_hidden_state[0] for row in ids]
        hidden = [torch.relu(rows @ head["score.0.weight"].T + head["score.0.bias"]) for rows in states]
        exact = [rows @ head["score.2.weight"].T + head["score.2.bias"] for rows in hidden]
    assert max_error(run(model, [Sequence(row) for row in ids]), exact) <= float32_budget(exact)


INTERNLM2 = {
    "model.embed_tokens": "model.tok_embeddings",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "score": "v_head",
}


def as_internlm2(tensors):
    """A Llama checkpoint as InternLM2 stores the same model: other names, one projection grouped by key/value head."""
    stored = {key: value for key, value in tensors.items() if "_proj.weight" not in key or "self_attn" not in key}
    stored |= {key: value for key, value in tensors.items() if "o_proj" in key}
    for layer in range(3):
        q, k, v = (tensors[f"model.layers.{layer}.self_attn.{part}_proj.weight"] for part in "qkv")
        groups = zip(q.chunk(2), k.chunk(2), v.chunk(2), strict=True)  # two key/value heads, two query heads for each
        stored[f"model.layers.{layer}.attention.wqkv.weight"] = torch.cat([torch.cat(group) for group in groups])
    for old, new in INTERNLM2.items():
        stored = {key.replace(old, new): value for key, value in stored.items()}
    return {**stored, "v_head.weight": tensors["score.weight"][:1]}


def test_internlm2_rewards_are_those_of_the_same_llama(copy, tmp_path_factory):
    from transformers import LlamaForSequenceClassification

    source = answers(tmp_path_factory, "llama")
    folder = copy("llama", as_internlm2, architectures=["InternLM2ForRewardModel"], model_type="internlm2")
    model = load(folder)
    assert (model.task, model.num_labels, model.activation_name) == ("token_classify", 1, "sigmoid")
    llama = LlamaForSequenceClassification.from_pretrained(source.folder, attn_implementation="eager").eval()
    ids = source.ids[:12]
    with torch.inference_mode():
        exact = [llama.score(llama.model(torch.tensor([row])).last_hidden_state[0])[:, :1] for row in ids]
    assert max_error(run(model, [Sequence(row) for row in ids]), exact) <= float32_budget(exact)


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gpt2", "modernbert-mean"])
def test_a_bare_backbone_embeds_with_its_familys_pooling(name, tmp_path, tmp_path_factory):
    case = CASES[name]
    model = make_model(TinyDecoder(case.class_name, "Model", case.config))
    ids = answers(tmp_path_factory, name).ids[:12]
    with torch.inference_mode():
        states = [model(torch.tensor([row])).last_hidden_state[0] for row in ids]
    ours = load(save(model, tmp_path / "m", {}))
    reads_first = name == "modernbert-mean"  # classifier_pooling is for classifiers
    assert (ours.task, ours.pooling) == ("embed", "cls" if reads_first else "last_token")
    exact = [rows[0] if reads_first else rows[-1] for rows in states]
    assert max_error(run(ours, [Sequence(row) for row in ids]), exact) <= float32_budget(exact)


def test_a_sentence_transformers_folder_takes_the_backbone_of_a_causal_lm(tmp_path, tmp_path_factory):
    model = make_model(TinyDecoder("Qwen3", "ForCausalLM", CASES["qwen3"].config))
    folder = save(model, tmp_path / "m", {})
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    entries = [
        {"idx": int(idx), "name": idx, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for idx, path, kind in modules
    ]
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 48, "pooling_mode_lasttoken": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    ids = answers(tmp_path_factory, "qwen3").ids[:6]
    with torch.inference_mode():
        exact = [model.model(torch.tensor([row])).last_hidden_state[0, -1] for row in ids]
    ours = load(folder)
    assert (ours.architecture, ours.pooling) == ("Qwen3ForCausalLM", "last_token")
    assert max_error(run(ours, [Sequence(row) for row in ids]), exact) <= float32_budget(exact)


def test_the_tokenizers_length_limits_only_models_with_a_position_table(copy):
    for name, expected in (("qwen3", 320), ("modernbert", 320), ("gpt2", 77)):
        folder = copy(name)
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}), encoding="utf-8")
        assert load(folder).max_model_len == expected


def test_gemmas_activation_is_the_tanh_form_where_it_says_gelu(copy, tmp_path_factory):
    expected = answers(tmp_path_factory, "gemma")
    assert matches(copy("gemma", hidden_act="gelu", hidden_activation=None), expected)


NESTED_YARN = {
    "full_attention": {
        "rope_type": "yarn",
        "rope_theta": 900.0,
        "factor": 4.0,
        "original_max_position_embeddings": 90,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("llama", {"is_causal": None}),
        ("gpt2", {"is_causal": None}),
        ("gemma3", {"is_causal": None}),
        ("gemma3-bidirectional", {"is_causal": False}),
        ("gemma", {"hidden_act": "relu", "hidden_activation": None}),
        ("modernbert", {"sliding_window": 5}),
        ("modernbert", {"rope_parameters": NESTED_YARN, "original_max_position_embeddings": 60}),
    ],
)
def test_a_key_means_what_it_means_to_transformers(copy, name, values, tmp_path_factory):
    folder, ids = copy(name, **values), answers(tmp_path_factory, name).ids[: len(LENGTHS)]
    model_class = getattr(transformers, CASES[name].class_name + CASES[name].head)
    model = model_class.from_pretrained(folder, attn_implementation="eager").eval()
    exact = hf_logits(model, [{"input_ids": torch.tensor([row])} for row in ids])
    assert not matches(folder, answers(tmp_path_factory, name))  # the key does something
    assert max_error(run(load(folder), [Sequence(row) for row in ids]), exact) <= float32_budget(exact)


@pytest.mark.parametrize(
    ("name", "kind", "pooling"),
    [("llama", None, "last_token"), ("llama", "MEAN", "mean"), ("modernbert-mean", "LAST", "mean")],
)
def test_pooling_follows_the_request_except_where_the_family_fixes_it(name, kind, pooling, tmp_path_factory):
    folder = answers(tmp_path_factory, name).folder
    assert load(folder, config=PoolerConfig(pooling_type=kind)).pooling == pooling


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
        ("llama", {"rope_parameters": {"rope_type": "mrope"}}, "rope_type 'mrope' is not supported"),
        ("llama", {"partial_rotary_factor": 0.5}, r"partial_rotary_factor=0\.5"),
        ("llama", {"head_dim": 12}, "head_dim 12 is not supported; multiples of 8 up to 256"),
        ("modernbert", {"num_attention_heads": 16}, r"head_dim 4 \(.*\) is not supported; multiples of 8 up to 256"),
        ("gpt2", {"n_embd": 260, "n_head": 1}, r"head_dim 260 \(.*\) is not supported; sizes up to 256"),
        ("llama", {"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ("llama", {"hidden_act": "mish"}, "hidden_act 'mish'"),
        ("llama-bidirectional-avg", {"pooling": None}, "requires a 'pooling' field in its HF config"),
        ("llama-bidirectional-avg", {"pooling": "max"}, "pool_type 'max' not supported"),
        ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types that contradict"),
        ("qwen3", {"layer_types": ["chunked_attention"] * 3}, r"layer_types \['chunked_attention'\]"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=true"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention=true"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping=50\.0"),
        ("gemma3", {"vision_config": {}}, "Gemma 3 with images"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=true"),
        ("gemma", {"hidden_activation": "relu"}, "hidden_activation='relu' contradicts hidden_act='gelu_pytorch_tanh'"),
        ("gemma", {"hidden_activation": "gelu"}, "hidden_activation='gelu' contradicts"),
        (
            "qwen2",
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "rope_parameters by kind of layer",
        ),
        (
            "gemma3",
            {"rope_parameters": {"sliding_attention": LONG}},
            "rope_type 'longrope' is not supported in layers of",
        ),
        ("modernbert", {"rope_parameters": {"full_attention": LONG}}, "rope_type 'longrope' is not supported in"),
        ("gemma3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "type='linear' has no effect in transformers"),
        ("modernbert", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling with type='linear'"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling='max'"),
        ("gte", {"model_type": "bert"}, "model_type 'new'"),
        ("gte", {"position_embedding_type": "absolute"}, "position_embedding_type='absolute'"),
        ("gte", {"layer_norm_type": "rms_norm"}, "layer_norm_type='rms_norm'"),
        ("gte", {"logn_attention_scale": True}, "logn_attention_scale=true"),
        ("gte", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear' is not supported; 'ntk' is"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(name, values, message, tmp_path_factory):
    with pytest.raises(UnsupportedModelError, match=message):
        load(answers(tmp_path_factory, name).folder, **values)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("gemma3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters must have an object"),
        ("modernbert", {"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters must have an object for each of"),
        ("gemma3", {"sliding_window_pattern": 0}, "sliding_window_pattern must be a positive number of layers, got 0"),
        ("modernbert", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers must be a positive number"),
    ],
)
def test_keys_by_kind_of_layer_that_make_no_sense_are_refused(name, values, message, tmp_path_factory):
    with pytest.raises(ConfigError, match=message):
        load(answers(tmp_path_factory, name).folder, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "needs low_freq_factor, high_freq_factor"),
        ({"rope_parameters": [1]}, "rope_parameters must be an object"),
        ({"layer_types": ["full_attention"]}, "layer_types must list 3 layers"),
        ({"layer_types": ["sliding_attention"] * 3}, "need a sliding_window, got None"),
        ({"num_hidden_layers": None}, "num_hidden_layers must be of type int"),
        ({"num_hidden_layers": 0}, "at least one layer"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(values, message, tmp_path_factory):
    with pytest.raises(ConfigError, match=message):
        load(answers(tmp_path_factory, "qwen3").folder, **values)


def test_check_says_how_a_decoder_would_run(tmp_path_factory):
    report = check_model(resolve_model(answers(tmp_path_factory, "qwen3").folder))
    assert report.supported, report.reason
    assert (report.family, report.head, report.pooling) == ("Qwen3", "score", "last_token")
    report = check_model(resolve_model(answers(tmp_path_factory, "modernbert-mean").folder))
    assert (report.family, report.head, report.pooling) == (
        "ModernBERT",
        "head.dense + silu, head.norm, classifier",
        "mean",
    )


@pytest.mark.parametrize(("name", "kind"), [("qwen3", "decoder"), ("modernbert", "encoder_only")])
def test_a_whole_classify_call(name, kind, tmp_path_factory):
    from assay import LLM

    expected = answers(tmp_path_factory, name)
    with LLM(expected.folder, skip_tokenizer_init=True, max_model_len=300) as llm:
        assert llm.llm_engine.model_config.attn_type == kind
        outputs = llm.classify([{"prompt_token_ids": ids} for ids in expected.ids])
    ours = [torch.tensor(output.outputs.probs) for output in outputs]
    assert max_error(ours, [row.softmax(0) for row in expected.float32]) <= 1e-4


@pytest.mark.parametrize("name", ["qwen3", "modernbert"])
def test_texts_and_pairs_agree_with_transformers(name, tmp_path):
    from assay.doctor import examine, inputs

    case, tokenizer = CASES[name], byte_bpe_tokenizer()
    special = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    model = make_model(TinyDecoder(case.class_name, case.head, {**case.config, **special}))
    folder = save(model, tmp_path / "m", {})
    tokenizer.save_pretrained(folder)
    report = examine(str(folder), examples=inputs.built_in(with_pairs=True)[::4])
    assert report.cause.kind == "none", report.cause


def test_a_bfloat16_checkpoint_stays_bfloat16(copy, tmp_path_factory):
    expected = answers(tmp_path_factory, "gemma")
    folder = copy("gemma", lambda tensors: {key: value.to(torch.bfloat16) for key, value in tensors.items()})
    model = load(folder)
    backbone: Any = model.backbone
    assert (model.dtype, backbone.embeddings.word.dtype) == ("bfloat16", torch.bfloat16)
    ours = run(model, [Sequence(expected.ids[idx]) for idx in SHORT])
    exact = [expected.float32[idx] for idx in SHORT]
    assert max_error(ours, exact) <= 1.1 * max_error(expected.bfloat16, expected.float32)


def test_layers_share_the_tables_they_have_in_common(tmp_path_factory):
    for name, count in (("qwen2", 1), ("gemma2", 1), ("gemma3", 2), ("gpt2", 0)):
        backbone: Any = load(answers(tmp_path_factory, name).folder).backbone
        assert len({id(rope) for rope in backbone.ropes if rope is not None}) == count


def test_working_memory_follows_the_length_that_is_asked_for(tmp_path_factory):
    from assay.hf_config import HFConfig
    from assay.models import load_model

    files = resolve_model(answers(tmp_path_factory, "gemma3").folder)
    models: list[Any] = [
        load_model(
            files,
            HFConfig.from_folder(files.folder),
            dtype="float32",
            pooler_config=PoolerConfig(),
            max_batch_tokens=64,
            max_batch_size=4,
            max_model_len=length,
        )
        for length in (None, 64)
    ]
    whole, short = (model.backbone for model in models)
    assert [rope.cos.shape[0] for rope in (*whole.ropes, *short.ropes)] == [320] * 3 + [64] * 3
    assert models[1]._arena.size_bytes < models[0]._arena.size_bytes
    ids = [Sequence(list(range(4, 68)))]
    assert torch.equal(run(models[0], ids)[0], run(models[1], ids)[0])
