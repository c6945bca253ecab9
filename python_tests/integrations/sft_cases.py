"""What a process runs: trl's SFTTrainer with a batch that grows."""

from __future__ import annotations

import os

# Nothing is looked up, and nobody is told of the run.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", CI="1")

import tempfile
import warnings
from string import ascii_lowercase
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

import adadagrad_kernels as adk
from adadagrad_kernels.integrations.huggingface import AdaptiveMixin, causal_lm_loss


class AdaptiveSFT(AdaptiveMixin, SFTTrainer):
    """As a user would write it."""


def text() -> Dataset:
    starts = [(start, stride) for start in range(26) for stride in (1, 2, 3)]
    lines = [
        " ".join(ascii_lowercase[(start + place * stride) % 26] for place in range(4 + start % 5))
        for start, stride in starts
    ]
    return Dataset.from_dict({"text": lines})


def letters() -> PreTrainedTokenizerFast:
    words = {word: place for place, word in enumerate(["<pad>", "<eos>", *ascii_lowercase])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def gpt2(dropout: float = 0.0) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    sizes = {"vocab_size": 28, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    special = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **special, **drops))


def grows() -> adk.BatchController:
    test = adk.NormTest(eta=0.5)
    return adk.BatchController(test, batch_size=8, max_batch_size=64, growth_cap=1.5)


def run(
    *,
    out: str | None = None,
    settings: dict[str, Any] | None = None,
    resume: str | None = None,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> dict[str, Any]:
    model, controller = gpt2(dropout).to(dtype), grows()
    given: dict[str, Any] = {
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 0.01,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "gradient_checkpointing": False,
        "seed": 5,
    }
    args = SFTConfig(out or tempfile.mkdtemp(), **{**given, **(settings or {})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trl's plans for its own functions
        trainer = AdaptiveSFT(
            model,
            args,
            train_dataset=text(),
            processing_class=letters(),
            controller=controller,
            **more,
        )
        before = [controller.batch_size, *_first_step(trainer)] if out is None else []
        trainer.train(resume_from_checkpoint=resume)
    found = {"history": trainer.state.log_history, "first": before}
    return found if out is None else {**found, "trainer": trainer}


def _first_step(trainer: Any) -> tuple[float, float, int]:
    """Variance and squared norm of the first batch's gradient, and its tokens, by a plain step."""
    indices = next(iter(adk.AdaptiveBatchSampler(78, 8, seed=5)))
    rows = trainer.data_collator([trainer.train_dataset[index] for index in indices])
    model, labels = trainer.model, rows.pop("labels")
    with adk.layer_statistics(model) as recorder:
        # As the Trainer counts: of GPT-2 the first label too, which predicts nothing.
        loss = causal_lm_loss(model(**rows), labels, (labels != -100).sum())
        loss.backward()
        statistics = recorder.statistics()
    model.zero_grad()
    assert statistics is not None
    return statistics.variance_norm, statistics.mean_sq_norm, int((labels != -100).sum())


def by_layers() -> dict[str, Any]:
    return run(compute_loss_func=causal_lm_loss)


def by_micro_batches() -> dict[str, Any]:
    return run(statistics="micro_batches")


def with_its_own_loss() -> str:
    """Whose head is no layer."""
    try:
        run()
    except ValueError as error:
        return str(error)
    return "no error"


CASES = [by_layers, by_micro_batches, with_its_own_loss]
