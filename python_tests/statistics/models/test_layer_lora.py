"""LoRA: adapters of peft in training, on a base that is frozen, also in eight bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels.statistics import check_statistics

peft = pytest.importorskip("peft", reason="peft is not installed")
transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of these libraries

WORDS, T = 31, 5


def llama() -> tuple[nn.Module, dict[str, Any]]:
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config), {
        "target_modules": ["q_proj", "v_proj", "up_proj"]
    }


def gpt2() -> tuple[nn.Module, dict[str, Any]]:
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=16, attn_pdrop=0.0,
        embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config), {
        "target_modules": ["c_attn"],
        "fan_in_fan_out": True,
    }


def adapted(model: nn.Module, **settings: Any) -> nn.Module:
    """With adapters that are no longer zero."""
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_dropout=0.0, **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def next_word(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(input_ids=tokens).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}],
    ids=["LoRA", "DoRA", "rsLoRA", "with the head"],
)
@pytest.mark.parametrize("make", [llama, gpt2])
def test_adapters(make: Any, settings: dict[str, Any], shadow: bool) -> None:
    base, own = make()
    model = adapted(base, **own, **settings)
    found = check_statistics(
        model, torch.randint(WORDS, (T, T)), next_word, shadow=shadow, show=False
    )
    assert found.ok, f"\n{found}"


def test_a_base_in_eight_bits() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = nn.Sequential(
        bitsandbytes.nn.Linear8bitLt(32, 32, has_fp16_weights=False), nn.Tanh(), nn.Linear(32, 4)
    )
    base[0].weight = bitsandbytes.nn.Int8Params(
        0.2 * torch.randn(32, 32), requires_grad=False, has_fp16_weights=False
    )
    base = base.to("cpu")
    base.is_loaded_in_8bit = True
    model = adapted(base, target_modules=["0"])
    assert base[0].base_layer.weight.dtype == torch.int8
    found = check_statistics(
        model,
        torch.randn(T, 3, 32),
        lambda model, x: model(x).square().mean(),
        show=False,
    )
    assert found.ok, f"\n{found}"
