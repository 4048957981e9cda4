"""What cannot run on packed sequences is refused by name: from its config and class, or by the start-up proof."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers

from assay.config import PoolerConfig
from assay.errors import ConfigError, UnsupportedModelError, WeightsError
from assay.files import ModelFiles, resolve_model
from assay.hf_config import HFConfig
from assay.models import check_model, load_model
from assay.models.transformers_class import make_outline
from assay.models.transformers_family import transformers_family
from assay.models.transformers_head import take_head
from assay.models.transformers_loading import load_parts
from tiny_transformers import make

SEQUENCE = "ForSequenceClassification"
_INTERFACE = "its attention does not go through transformers' attention interface"
_HEADS = {"num_attention_heads": 4}
_MATRICES = "only linear layers, embeddings and experts may hold matrices"
REFUSED = {
    "DebertaForSequenceClassification": ({"talking_head": True}, r"mixes the scores .* heads \(talking_head\)"),
    "DebertaV2ForSequenceClassification": (
        {**_HEADS, "conv_kernel_size": 3, "conv_groups": 2},
        rf"Conv1d.* {_MATRICES}",
    ),
    "LongformerForSequenceClassification": ({"attention_window": [4, 4]}, _INTERFACE),
    "FNetForSequenceClassification": ({}, _INTERFACE),
    "BloomForSequenceClassification": ({"n_layer": 1, "n_head": 4}, _INTERFACE),
    "FalconForSequenceClassification": ({"alibi": True}, r"biases attention by distance \(ALiBi\) \(alibi\)"),
    "T5ForSequenceClassification": ({}, r"is an encoder-decoder \(is_encoder_decoder\)"),
    "BartForSequenceClassification": ({}, r"is an encoder-decoder \(is_encoder_decoder\)"),
    "MambaModel": ({}, "carries a state from token to token"),
    "FalconMambaModel": ({}, "carries a state from token to token"),
    "Mamba2Model": ({"num_heads": 8, "head_dim": 8}, "carries a state from token to token"),
    "BambaModel": ({"mamba_n_heads": 8}, "carries a state from token to token"),
    "Lfm2Model": ({"layer_types": ["conv", "full_attention"]}, rf"conv.* multiplies by .* itself; {_MATRICES}"),
    "GptOssForSequenceClassification": ({"num_local_experts": 2}, rf"multiplies by .* itself; {_MATRICES}"),
    "EsmForSequenceClassification": ({"token_dropout": True}, "scales embeddings by how many tokens"),
    "CLIPModel": ({}, r"is made of several models \(text_config, vision_config\)"),
    "ViTModel": ({"num_attention_heads": 4}, "ViTModel takes no input_ids"),
}


def config_of(architecture, **changes):
    config_class = getattr(transformers, architecture).config_class
    values = {} if architecture == "CLIPModel" else {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}
    return HFConfig({**config_class(**{**values, **changes}).to_dict(), "architectures": [architecture]})


@pytest.mark.parametrize("architecture", REFUSED)
def test_an_architecture_that_cannot_be_packed_is_refused_before_its_weights_are_read(architecture):
    changes, message = REFUSED[architecture]
    head = "sequence" if architecture.endswith(SEQUENCE) else "embedding"
    with pytest.raises(UnsupportedModelError, match=message):
        make_outline(config_of(architecture, **changes), architecture, head)


def test_a_head_of_language_model_rows_is_refused():
    config = config_of("PhiForSequenceClassification")
    config.update({"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"})
    with pytest.raises(UnsupportedModelError, match=r"PhiForSequenceClassification \(method\)"):
        transformers_family(config, "PhiForSequenceClassification", is_chain=False)


def test_a_quantised_checkpoint_is_refused():
    config = config_of("PhiForSequenceClassification")
    config.update({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}})
    with pytest.raises(UnsupportedModelError, match="is quantised"):
        make_outline(config, "PhiForSequenceClassification", "sequence")


def test_an_unknown_classifier_pooling_is_refused():
    name = "EuroBertForSequenceClassification"
    config = config_of(name, pad_token_id=0, num_attention_heads=4, classifier_pooling="max")
    with pytest.raises(UnsupportedModelError, match=r"classifier_pooling='max' is none of cls, bos, mean, late"):
        make_outline(config, name, "sequence")


def test_a_config_of_another_model_is_refused():
    config = config_of("PhiForSequenceClassification")
    with pytest.raises(ConfigError, match=r"model_type must be 'stablelm' for StableLm.*, got 'phi'"):
        make_outline(config, "StableLmForSequenceClassification", "sequence")


def test_sizes_that_do_not_fit_together_are_a_config_error():
    config = config_of("Olmo2Model", num_attention_heads=4, num_key_value_heads=2)
    config.update({"hidden_act": "no such function"})
    with pytest.raises(ConfigError, match=r"Olmo2Model cannot be made of it.*no such function"):
        make_outline(config, "Olmo2Model", "embedding")


@pytest.mark.parametrize("architecture", ["NoSuchModel", "PhiConfig", "PhiForCausalLM"])
def test_what_is_no_model_of_use_here_is_unknown(architecture):
    config = config_of("PhiForSequenceClassification")
    assert make_outline(config, architecture, "embedding") is None


def test_code_from_a_repository_is_never_the_answer(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"architectures": ["OwnModel"], "model_type": "own", "auto_map": {"AutoModel": "modeling_own.OwnModel"}}'
    )
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('this code ran')")
    report = check_model(ModelFiles("own", tmp_path, is_partial=True))
    assert not report.supported
    assert report.reason is not None and "code from a model's repository is never executed" in report.reason


def start(folder, dtype="float32"):
    files = resolve_model(folder)
    return load_model(
        files,
        HFConfig.from_folder(files.folder),
        dtype=dtype,
        pooler_config=PoolerConfig(),
        max_batch_tokens=512,
        max_batch_size=8,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embeddings_that_reach_the_neighbouring_token_are_found_at_start_up(dtype, tmp_path):
    sizes = {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32, "num_key_value_heads": None}
    folder = make(tmp_path / "model", "MobileBert", **sizes)
    with pytest.raises(UnsupportedModelError, match="MobileBertForSequenceClassification gives an input other bits"):
        start(folder, dtype)


def test_positions_counted_over_the_whole_batch_are_found_at_start_up(tmp_path, monkeypatch):
    from transformers.models.albert.modeling_albert import AlbertEmbeddings

    forward = AlbertEmbeddings.forward

    def counts_on(self, input_ids=None, token_type_ids=None, position_ids=None, **others):
        return forward(self, input_ids, token_type_ids, None, **others)

    folder = make(tmp_path / "model", "Albert", initializer_range=1.0)
    start(folder)
    monkeypatch.setattr(AlbertEmbeddings, "forward", counts_on)
    with pytest.raises(UnsupportedModelError, match="AlbertForSequenceClassification gives an input other bits"):
        start(folder)


def test_a_model_that_transformers_cannot_run_itself_is_refused(tmp_path):
    folder = make(tmp_path / "model", "Qwen3Moe", num_experts=2, num_experts_per_tok=3, moe_intermediate_size=32)
    with pytest.raises(UnsupportedModelError, match="does not run in transformers itself"):
        start(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("wrong", [{"position_offset": 1}, {"pooling": "mean"}], ids=["positions", "pooling"])
def test_a_rule_read_differently_from_transformers_is_found_at_start_up(wrong, dtype, tmp_path):
    folder = make(tmp_path / "model", "Albert", initializer_range=1.0)
    files = resolve_model(folder)
    outline = make_outline(HFConfig.from_folder(folder), "Albert" + SEQUENCE, "sequence")
    assert outline is not None
    load_parts(files, outline, 3, dtype, dtype)
    if "pooling" in wrong:
        outline = dataclasses.replace(outline, **wrong)
    else:
        outline = dataclasses.replace(outline, shape=dataclasses.replace(outline.shape, **wrong))
    with pytest.raises(UnsupportedModelError, match="gives other results here than in transformers"):
        load_parts(files, outline, 3, dtype, dtype)


def test_a_head_that_does_not_end_in_a_linear_layer_is_refused():
    with pytest.raises(UnsupportedModelError, match="its head does not end in a linear layer"):
        take_head([torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)], "Some" + SEQUENCE, 3)


def test_a_classifier_with_another_number_of_labels_is_refused():
    with pytest.raises(WeightsError, match=r"names 3 labels .* but the classifier has 4 rows"):
        take_head([torch.nn.Linear(4, 4)], "Some" + SEQUENCE, 3)
