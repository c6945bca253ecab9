"""BERT in a loop of Accelerate, its batch growing: python examples/accelerate_loop.py.

Also on two processes: accelerate launch --cpu --num_processes 2 examples/accelerate_loop.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from transformers import BertConfig, BertForSequenceClassification

import adadagrad_kernels as adk
from adadagrad_kernels.integrations.accelerate import adaptive_steps

BUDGET = 12_000  # samples

torch.manual_seed(0)
torch.set_num_threads(1)
digits = load_digits()
# An image is a sentence of its 16 blocks of 2 x 2 pixels; a word says how dark the block is.
blocks = torch.tensor(digits.images).view(-1, 4, 2, 4, 2).mean((2, 4)).flatten(1)
data = TensorDataset(blocks.round().long(), torch.tensor(digits.target))

accelerator = Accelerator()
config = BertConfig(
    vocab_size=17,
    max_position_embeddings=16,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=128,
    num_labels=10,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
model = BertForSequenceClassification(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=BUDGET // 16)
model, optimizer = accelerator.prepare(model, optimizer)  # neither loader nor scheduler

controller = adk.BatchController(
    adk.NormTest(eta=1.8), batch_size=16, max_batch_size=512, growth_cap=1.1
)
steps = adaptive_steps(
    accelerator,
    model,
    data,
    controller,
    micro_batch_size=64,
    samples=BUDGET,
    scheduler=adk.SamplesLR(linear, samples_per_step=16),
    optimizer=optimizer,
)
accelerator.register_for_checkpointing(steps)  # for save_state() and load_state()

for step in steps:
    for words, labels in step:
        step.backward(cross_entropy(model(words).logits, labels))
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    accelerator.log(step.metrics(), step=controller.steps)

with torch.no_grad():
    words, labels = (tensor.to(accelerator.device) for tensor in data.tensors)
    inside = accelerator.unwrap_model(model).eval()
    accuracy = (inside(words).logits.argmax(1) == labels).float().mean().item()
accelerator.print(
    f"{controller.steps} steps, batch 16 -> {controller.batch_size}, accuracy {accuracy:.2f}"
)
