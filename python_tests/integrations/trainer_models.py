"""Small models and data for the tests of trainers: text of unequal lengths, and digits of it."""

from __future__ import annotations

import os
from typing import Any

# No model is looked up, and no warning about a progress bar is one of ours.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

WORDS = 31


class Text(Dataset[dict[str, Tensor]]):
    """Walks through the alphabet of a stride of their own, of 4 to 9 tokens, padded to ``pad``."""

    def __init__(self, size: int = 90, *, pad: int = 9, classes: bool = False) -> None:
        draw = torch.Generator().manual_seed(3)
        start = torch.randint(WORDS, (size, 1), generator=draw)
        self.stride = torch.randint(1, 4, (size, 1), generator=draw)
        self.tokens = (start + torch.arange(pad) * self.stride) % WORDS
        self.lengths = torch.randint(4, pad + 1, (size,), generator=draw)
        self.classes = classes
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.drawn.append(index)
        tokens, length = self.tokens[index], int(self.lengths[index])
        mask = (torch.arange(len(tokens)) < length).long()
        if self.classes:
            return {"input_ids": tokens, "labels": self.stride[index, 0] - 1}
        labels = torch.where(mask.bool(), tokens, -100)
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def gpt2(dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    config = GPT2Config(
        vocab_size=WORDS,
        n_positions=16,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        **drops,
    )
    return GPT2LMHeadModel(config).to(dtype)


def bert(dtype: torch.dtype = torch.float64) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        max_position_embeddings=16,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config).to(dtype)


def token_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """The mean over the tokens of a step, in the model's precision."""
    logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    if num_items_in_batch is None:
        return cross_entropy(logits, targets)
    return cross_entropy(logits, targets, reduction="sum") / num_items_in_batch


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
