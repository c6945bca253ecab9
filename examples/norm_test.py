"""AdAdaGrad on digits, stopped half-way and resumed: python examples/norm_test.py."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from sklearn.datasets import load_digits
from torch import nn

import adadagrad_kernels as adk

BUDGET = 15_000  # samples, over as many epochs as that takes

digits = load_digits()
images, labels = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
loss_fn = nn.CrossEntropyLoss()


def build() -> SimpleNamespace:
    """All that a run needs, and all that its checkpoint holds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = adk.Adagrad(model.parameters(), lr=0.02)
    controller = adk.BatchController(
        adk.NormTest(eta=0.5), batch_size=8, max_batch_size=512, test_interval=2
    )
    # Asked for the size before every batch; its batches cross the borders of epochs.
    sampler = adk.AdaptiveBatchSampler(len(images), controller, total_samples=BUDGET)
    return SimpleNamespace(model=model, optimizer=optimizer, controller=controller, sampler=sampler)


def train(run: SimpleNamespace, until: int = BUDGET) -> None:
    """Trains until so many samples were seen."""
    # Measures the steps alone that decide; of the others there is no record.
    with adk.layer_statistics(run.model, when=run.controller.wants_test) as recorder:
        for indices in run.sampler:
            inputs, targets = images[indices], labels[indices]
            run.optimizer.zero_grad()
            loss_fn(run.model(inputs), targets).backward()
            run.controller.update(recorder.statistics(), len(inputs))
            run.optimizer.step()
            if run.controller.samples_seen >= until:
                return


whole = build()
train(whole)

stopped = build()
train(stopped, until=BUDGET // 2)
checkpoint = {name: part.state_dict() for name, part in vars(stopped).items()}

resumed = build()
for name, part in vars(resumed).items():
    part.load_state_dict(checkpoint[name])
train(resumed)

for name, run in (("whole", whole), ("resumed", resumed)):
    with torch.no_grad():
        loss = loss_fn(run.model(images), labels).item()
    metrics = run.controller.metrics()
    print(
        f"{name}: {metrics['steps']:.0f} steps, average batch {metrics['batch/average']:.1f}, "
        f"largest {metrics['batch/global']:.0f}, loss {loss:.6f}"
    )
