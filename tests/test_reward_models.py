"""Reward models: of whole conversations, of every token, and of every step, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import llms
import reranker_tokenizers
import tiny_models
from assay import LLM, ConfigError, PoolerConfig, PoolingParams, ValidationError

RAW = PoolingParams(use_activation=False)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3_CHAT = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
)
CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "how long does the battery last"}, {"role": "assistant", "content": "two days"}],
    [{"role": "user", "content": "is it worth it?"}, {"role": "assistant", "content": "I would not say it was bad."}],
    [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "  who will replace it?  "},
        {"role": "assistant", "content": "nobody, naïve café 😀"},
    ],
]
SOLUTION = ["The dog jumps.", "A battery lasts two days!", "So the price is $1,299.99."]


def sizes(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": False,
    }


def save(folder: Path, model: Any, tokenizer: Any, chat_template: str) -> Path:
    tiny_models.randomize(model, seed=5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(chat_template)
    return folder


# ---- of a whole conversation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Qwen3", "Llama"])
def test_conversations_are_rewarded_as_by_transformers(kind: str, tmp_path: Path) -> None:
    """Special tokens are there once, and the reward is read at the last token, also where that is the pad token."""
    tokenizer = reranker_tokenizers.qwen3() if kind == "Qwen3" else reranker_tokenizers.llama3()
    template = CHATML if kind == "Qwen3" else LLAMA3_CHAT
    config = getattr(transformers, f"{kind}Config")(**sizes(tokenizer), num_labels=1)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    folder = save(tmp_path / "model", model, tokenizer, template)
    with LLM(folder) as llm:
        assert llm.pooling_task == "classify"
        raw = llm.classify(CHATS, pooling_params=RAW)
        scored = llm.classify(CHATS)
        assert llm.encode(CHATS, RAW, pooling_task="classify")[1].outputs.data.tolist() == raw[1].outputs.probs
        for chat, logit, reward in zip(CHATS, raw, scored, strict=True):
            text = tokenizer.apply_chat_template(chat, tokenize=False, chat_template=template)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert logit.prompt_token_ids == ids
            if tokenizer.bos_token_id is not None:
                assert ids.count(tokenizer.bos_token_id) == 1
            with torch.no_grad():
                expected = model.score(model.model(torch.tensor([ids])).last_hidden_state[0, -1])
            assert llms.close(logit.outputs.probs, expected)
            assert llms.close(reward.outputs.probs, expected.sigmoid())


def test_a_reward_read_at_the_pad_token_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers reads the token before it; a score is the one of the last token with and without the warning."""
    tokenizer = reranker_tokenizers.qwen3()
    model = transformers.Qwen3ForSequenceClassification(
        transformers.Qwen3Config(**sizes(tokenizer), num_labels=1)
    ).eval()
    folder = save(tmp_path / "model", model, tokenizer, CHATML)
    pad = tokenizer.pad_token_id
    inside, at_end = ([5, pad, 7, 8], [5, 6, 7, pad])
    with caplog.at_level("WARNING", "assay"), LLM(folder) as llm:
        llm.classify({"prompt_token_ids": inside})
        assert "pad_token_id" not in caplog.text
        for _ in range(2):
            (output,) = llm.classify({"prompt_token_ids": at_end}, pooling_params=RAW)
    assert caplog.text.count(f"a prompt ends with token {pad}, config.json's pad_token_id") == 1
    assert "docs/rerankers.md" in caplog.text
    with torch.no_grad():
        states = model.model(torch.tensor([at_end])).last_hidden_state[0]
        assert llms.close(output.outputs.probs, model.score(states[-1]))
        assert torch.allclose(model(torch.tensor([at_end])).logits[0], model.score(states[-2]))
    caplog.clear()
    mean = PoolerConfig(pooling_type="MEAN")
    with caplog.at_level("WARNING", "assay"), LLM(folder, pooler_config=mean) as llm:
        llm.classify({"prompt_token_ids": at_end})
    assert "pad_token_id" not in caplog.text


# ---- of every token, of every step ---------------------------------------------------------------------------------


def judge(folder: Path, kind: str) -> tuple[Path, Any, Any]:
    """A Qwen2 checkpoint with the two-layer head of Qwen's reward models; gives the backbone and the head as well."""
    tokenizer = reranker_tokenizers.qwen2()
    backbone = transformers.Qwen2Model(transformers.Qwen2Config(**sizes(tokenizer))).eval()
    save(folder, backbone, tokenizer, CHATML)
    num_labels = 2 if kind == "Qwen2ForProcessRewardModel" else 1
    score = torch.nn.Sequential(torch.nn.Linear(48, 48), torch.nn.ReLU(), torch.nn.Linear(48, num_labels)).eval()
    tiny_models.randomize(score, seed=6)
    tensors = {f"model.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    head = {f"score.{name}": value for name, value in score.state_dict().items()}
    lm_head = {"lm_head.weight": torch.zeros(len(tokenizer), 48)}
    save_file({**tensors, **head, **lm_head}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [kind]}))
    return folder, backbone, score


def token_logits(backbone: Any, score: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = score(backbone(torch.tensor([ids])).last_hidden_state[0])
    return result


def test_token_rewards_come_raw_with_a_row_per_token(tmp_path: Path) -> None:
    folder, backbone, score = judge(tmp_path / "model", "Qwen2ForRewardModel")
    # By name: random weights magnify what dtype="auto" loses on AMX tiles beyond the budget (docs/kernels-linear.md).
    with LLM(folder, dtype="float32") as llm:
        assert llm.supported_tasks == ("token_classify",)
        outputs = llm.reward(CHATS)
        assert llm.encode(CHATS[0], pooling_task="token_classify")[0].outputs == outputs[0].outputs
        for output in outputs:
            assert output.outputs.data.shape == (len(output.prompt_token_ids), 1)
            assert llms.close(output.outputs.data, token_logits(backbone, score, output.prompt_token_ids))
        (on,) = llm.reward(CHATS[0], pooling_params=PoolingParams(use_activation=True))
        assert llms.close(on.outputs.data, outputs[0].outputs.data.sigmoid())


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    return judge(tmp_path_factory.mktemp("process") / "model", "Qwen2ForProcessRewardModel")


def solution(tokenizer: Any) -> tuple[list[int], list[int]]:
    """A conversation whose answer ends every step with a tag (here <|endoftext|>), and the tag's places."""
    tag = "<|endoftext|>"
    chat = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": tag.join([*SOLUTION, ""])}]
    ids = tokenizer.apply_chat_template(chat, chat_template=CHATML, return_dict=False)
    tag_id = tokenizer.convert_tokens_to_ids(tag)
    places = [index for index, token_id in enumerate(ids) if token_id == tag_id]
    assert len(places) == len(SOLUTION)
    return ids, places


def test_process_rewards_are_read_at_the_step_tags(process: tuple[Path, Any, Any]) -> None:
    folder, backbone, score = process
    tokenizer = reranker_tokenizers.qwen2()
    ids, places = solution(tokenizer)
    logits = token_logits(backbone, score, ids)[places]
    config = PoolerConfig(step_tag_id=ids[places[0]])
    with LLM(folder, pooler_config=config) as llm:
        assert llm.llm_engine.model_config.pooler_config.tok_pooling_type == "STEP"
        (steps,) = llm.reward([ids])
        assert steps.outputs.data.shape == (len(SOLUTION), 2)
        assert llms.close(steps.outputs.data, logits.softmax(1))
        (raw,) = llm.encode([ids], RAW, pooling_task="token_classify")
        assert llms.close(raw.outputs.data, logits)
        together = llm.reward([ids[:9], ids, ids[3:]])
        assert together[1].outputs == steps.outputs
        assert [len(output.outputs.data) for output in together] == [0, len(SOLUTION), len(SOLUTION)]


def test_the_step_tag_of_qwens_process_reward_models_is_the_default(process: tuple[Path, Any, Any]) -> None:
    with LLM(process[0]) as llm:
        pooler_config = llm.llm_engine.model_config.pooler_config
        assert (pooler_config.tok_pooling_type, pooler_config.step_tag_id) == ("STEP", 151651)
        (none,) = llm.reward("no tag in here")
        assert none.outputs.data.shape == (0, 2)
    with LLM(process[0], pooler_config={"pooling_type": "ALL"}) as llm:
        (every,) = llm.reward("no tag in here")
        assert len(every.outputs.data) == len(every.prompt_token_ids)


def test_step_parameters_of_a_request(process: tuple[Path, Any, Any]) -> None:
    folder, backbone, score = process
    ids, places = solution(reranker_tokenizers.qwen2())
    logits = token_logits(backbone, score, ids)[places]
    with LLM(folder) as llm:
        for columns, expected in (([1, 0], logits[:, [1, 0]].softmax(1)), ([1], logits[:, [1]].sigmoid())):
            params = PoolingParams(step_tag_id=ids[places[0]], returned_token_ids=columns)
            (output,) = llm.reward([ids], pooling_params=params)
            assert llms.close(output.outputs.data, expected)
            params.use_activation = False
            assert llms.close(llm.reward([ids], pooling_params=params)[0].outputs.data, logits[:, columns])
        several = [PoolingParams(step_tag_id=ids[places[0]]), None, PoolingParams(step_tag_id=ids[0])]
        outputs = llm.reward([ids] * 3, pooling_params=several)
        assert [len(output.outputs.data) for output in outputs] == [len(places), 0, ids.count(ids[0])]
        for wrong in ({"returned_token_ids": [2]}, {"returned_token_ids": []}, {"step_tag_id": "x"}):
            with pytest.raises(ValidationError, match=next(iter(wrong))):
                llm.reward([ids], pooling_params=PoolingParams(**wrong))


def test_a_softmax_over_one_column_is_refused(process: tuple[Path, Any, Any]) -> None:
    with LLM(process[0], pooler_config={"activation": "softmax"}) as llm:
        with pytest.raises(ValidationError, match=r"returned_token_ids=\[1\]: .*: softmax over one label"):
            llm.reward("a", pooling_params=PoolingParams(returned_token_ids=[1]))
        llm.reward("a", pooling_params=PoolingParams(returned_token_ids=[1], use_activation=False))


def test_step_pooling_works_on_any_token_classifier() -> None:
    with llms.load(llms.TOKENS, pooler_config={"pooling_type": "STEP"}) as llm, llms.load(llms.TOKENS) as plain:
        (whole,) = plain.encode("the lazy dog", pooling_task="token_classify")
        (same,) = llm.encode("the lazy dog", pooling_task="token_classify")
        assert same.outputs == whole.outputs, "without a tag every row is kept"
        tag = whole.prompt_token_ids[2]
        (row,) = llm.encode("the lazy dog", PoolingParams(step_tag_id=tag), pooling_task="token_classify")
        assert torch.equal(row.outputs.data, whole.outputs.data[2:3])


def test_a_language_model_judges_steps_by_its_logits(tmp_path: Path) -> None:
    """As the Math-Shepherd card computes it: softmax over two tokens' logits, at the tokens that end a step."""
    tokenizer = reranker_tokenizers.llama3()
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes(tokenizer))).eval()
    folder = save(tmp_path / "model", model, tokenizer, LLAMA3_CHAT)
    good, bad = tokenizer.convert_tokens_to_ids(["yes", "no"])
    tag = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    text = "<|eot_id|>".join([*SOLUTION, ""])
    config = {"pooling_type": "STEP", "step_tag_id": tag, "returned_token_ids": [good, bad]}
    with LLM(folder, pooler_config=config) as llm:
        assert llm.pooling_task == "token_classify"
        (output,) = llm.reward(text)
        with torch.no_grad():
            rows = model(torch.tensor([output.prompt_token_ids])).logits[0][:, [good, bad]]
        at = [index for index, token_id in enumerate(output.prompt_token_ids) if token_id == tag]
        assert len(at) == len(SOLUTION)
        assert llms.close(output.outputs.data, rows[at].softmax(1))
    with pytest.raises(ConfigError, match="returned_token_ids must be ids of the tokenizer"):
        LLM(folder, pooler_config={**config, "returned_token_ids": [10**6]})
