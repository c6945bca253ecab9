"""The study of optimizers and schedules: Muon's steps, its test, the choice of rates, the scale."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import pytest
import torch

from adadagrad_kernels import AdaptiveBatchSampler
from adadagrad_kernels.cli.progress import Progress
from benchmarks.reproduce import (
    gpt_schedules,
    harness,
    page,
    results,
    scale,
    selection,
    targets,
)
from benchmarks.reproduce.muon import MuonTrainer, matrices
from benchmarks.reproduce.plan import Plan
from benchmarks.reproduce.results import FOLDER, Options
from benchmarks.reproduce.tasks import Task, text

needs_muon = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="this torch has no torch.optim.Muon"
)
MUON = {"kind": "muon", "lr": 0.01, "betas": [0.9, 0.95], "weight_decay": 0.1}


def task(spectral: bool) -> Task:
    made = text(Options("smoke"), tokens=8, layers=1, width=8)()
    return replace(made, trainer=partial(MuonTrainer, spectral=spectral))


def plan(**changes) -> Plan:
    settings = {"method": "", "optimizer": MUON, "batch_size": 8, "samples": 48,
                "evaluate_every": 48}  # fmt: skip
    return Plan(**{**settings, **changes})


def trained(plan: Plan, task: Task) -> MuonTrainer:
    trainer, _ = harness.train(task, plan, 3, Progress("", 1, quiet=True))
    return trainer


@needs_muon
def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    """The six steps written out, with two optimizers of torch and the plan's warm-up."""
    given = plan(warmup=0.5)
    found = trained(given, task(spectral=False))
    made = task(spectral=False)
    torch.manual_seed(3)
    model = made.build()
    named = dict(model.named_parameters())
    assert matrices(model) == [
        f"blocks.0.{name}.weight" for name in ("query", "key", "value", "output", "up", "down")
    ]
    hidden = [named.pop(name) for name in matrices(model)]
    optimizers = [
        torch.optim.Muon(hidden, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(named.values(), betas=(0.9, 0.95), weight_decay=0.1),
    ]
    size = len(made.data.train)
    order = AdaptiveBatchSampler(size, 8, seed=found.sampler.seed, total_samples=48)
    for step, indices in enumerate(order):
        inputs, targets = made.data.train.select(torch.tensor(indices))
        model.zero_grad()
        made.data.objective.loss(model(inputs), targets).backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * given.rate(8 * step)
            optimizer.step()
    assert found.controller.steps == 6
    torch.testing.assert_close(list(found.model.parameters()), list(model.parameters()))


@needs_muon
def test_the_spectral_test_decides_by_the_gradients_of_four_micro_batches() -> None:
    """One step: noise and signal from singular values in float64 of gradients taken apart."""
    growth = {"rule": "spectral", "eta": 0.8}
    found = trained(plan(samples=8, growth=growth, max_batch=4096), task(spectral=True))
    made = task(spectral=True)
    torch.manual_seed(3)
    model = made.build().double()
    (indices,) = AdaptiveBatchSampler(
        len(made.data.train), 8, seed=found.sampler.seed, total_samples=8
    )
    gradients = []
    for part in torch.tensor(indices).split(2):
        model.zero_grad()
        inputs, targets = made.data.train.select(part)
        made.data.objective.loss(model(inputs), targets).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    noise = signal = 0.0
    for name in matrices(model):
        apart = torch.stack([gradient[name] for gradient in gradients])
        mean = apart.mean(0)
        off = apart - mean
        # Each is a mean of two samples.
        covariance = 2 * sum(o @ o.T if o.shape[0] <= o.shape[1] else o.T @ o for o in off) / 3
        noise += torch.linalg.eigvalsh(covariance).clamp_min(0).sqrt().sum().item()
        signal += torch.linalg.svdvals(mean).sum().item()
    metrics = found.controller.metrics()
    assert metrics["batch/suggested"] == pytest.approx((noise / signal / 0.8) ** 2, rel=1e-3)
    assert found.controller.criterion.name == "spectral_norm_test"


def stored_run(way: str, rate: float, loss: float | None, seed: int = 0, **changes) -> dict:
    """Ten steps of 16, then ten of 64, evaluated three times."""
    curve = [
        {"samples": 0, "steps": 0, "seconds": 0.0, "statistics_seconds": 0.0, "batch": 16,
         "test_loss": 3.0},
        {"samples": 160, "steps": 10, "seconds": 1.0, "statistics_seconds": 0.1, "batch": 64,
         "test_loss": 2.5},
        {"samples": 800, "steps": 20, "seconds": 4.0, "statistics_seconds": 0.8, "batch": 64,
         "test_loss": loss},
    ]  # fmt: skip
    reached = None if loss is None or loss > 2.0 else dict(curve[-1])
    return {
        "task": "AdamW",
        "method": f"{way}, lr {rate:g}",
        "seed": seed,
        "settings": {"plan": {"optimizer": {"lr": rate}, "growth": changes}},
        "result": {
            "diverged": loss is None,
            "final": curve[-1],
            "curve": curve,
            "targets": {"test_loss 2": reached},
        },
    }


def test_the_first_seed_chooses_the_rate() -> None:
    runs = [
        stored_run("batch 8", 0.1, 1.9), stored_run("batch 8", 0.3, 1.8),
        stored_run("batch 8", 1.0, None), stored_run("batch 8", 0.3, 2.2, seed=1),
        stored_run("batch 8", 0.1, 1.0, seed=1), stored_run("doubling", 0.1, None),
    ]  # fmt: skip
    assert selection.best_rates(runs, "test_loss") == {"batch 8": 0.3}
    found = gpt_schedules.shown(runs)
    assert [run["seed"] for run in found["batch 8"]] == [0, 1]


def test_simulated_seconds_are_sums_over_the_steps() -> None:
    """Ten steps of 16 and ten of 64; tests take a tenth of the first and 7 / 30 of the others."""
    overhead, each = 0.004, 0.00025
    assert scale.step_parts() == pytest.approx((overhead, each))
    reduce = 2 * 3 * 2e-5 + 2 * 7 / 8 * 1.7e6 / 2.5e10
    first, second = 10 * (overhead + 2 * each), 10 * (overhead + 8 * each)
    expected = first + second + 20 * reduce
    measuring = first / 9 + second * 7 / 23
    plain = stored_run("doubling", 0.1, 1.9, rule="doubling")
    tested = stored_run("norm test", 0.1, 1.9, rule="norm")
    missed = stored_run("batch 8", 0.1, 2.1)
    found = scale.seconds([plain, tested, missed], "test_loss", 2.0, 8)
    assert found == [pytest.approx(expected), pytest.approx(expected + measuring), None]
    ways = {"doubling": [plain], "norm test": [tested], "batch 8": [missed]}
    verdicts = scale.verdicts(ways, "test_loss", 2.0)
    # Here both took the same; of seconds on more workers less and less is their own passes.
    assert verdicts == [f"doubling (+{more}%)" for more in (0, 21, 19, 19)]


def test_the_scales_of_the_start_page_are_those_of_plan() -> None:
    """Steps, tokens and seconds of every row, from the kept figures of the small GPT."""
    text = (page.DOCUMENT.parents[1] / "start" / "adaptive_batches.md").read_text()
    rows = {}
    for line in text.partition("## At which scale")[2].splitlines():
        name, *cells = (part.strip(" *") for part in line.strip("|").split("|"))
        if cells and cells[0][:1].isdigit():
            rows[name] = [float(value.replace(",", "")) for value in cells]
    hardware = replace(scale.HARDWARE, gradient_bytes=3.3e6)
    for _, method, runs in results.groups(results.stored("gpt_adadam", "machine", FOLDER).runs):
        kind, _, way = method.partition(", ")
        name = f"norm test, {way}" if kind == "AdAdam" else way.replace("doubling ", "doubling, ")
        (target,) = runs[0]["settings"]["plan"]["targets"]["test_loss"]
        reached = [targets.at(run["result"], "test_loss", target) for run in runs]
        steps, samples = (fmean(at[key] for at in reached) for key in ("steps", "samples"))
        seconds = [
            fmean(scale.seconds(runs, "test_loss", target, workers, hardware))
            for workers in (1, 8, 64)
        ]
        found = rows.pop(name)
        assert found[:2] == [pytest.approx(steps, abs=0.51), 64 * samples]
        assert found[2:] == pytest.approx(seconds, abs=0.0051)
    assert not rows


def test_further_seeds_follow_the_grid(tmp_path: Path) -> None:
    """None while a rate of the way is missing; then one rate alone."""
    given = Options("machine", out=tmp_path)
    grid = gpt_schedules.runs(given)
    assert len(grid) == len({run.key for run in grid}) == 3 * 7 * 3
    figures = gpt_schedules.stored(gpt_schedules.NAME, "machine", tmp_path)
    ways: dict[str, list] = {}
    for run in grid:
        if run.task == "Muon":
            ways.setdefault(run.method.rpartition(", lr ")[0], []).append(run)
    first, second, third, fourth, *_ = ways.values()
    found = {
        (2.0, 1.5, 1.7): first,
        (1.0, 2.0): second,
        (1.0, 2.0, 3.0): third,
        (3.0, 2.0, None): fourth,
    }
    for losses, runs in found.items():
        for loss, run in zip(losses, runs, strict=False):
            figures.add(run, {"diverged": loss is None, "final": {"test_loss": loss}})
    known = {run.key for run in grid}
    further = [run for run in gpt_schedules.runs(given) if run.key not in known]
    assert [(run.task, run.method, run.seed) for run in further] == [
        ("Muon", first[1].method, 1),
        ("Muon", first[1].method, 2),
        # The best is at the edge of the grid, which goes on there; what diverges is no edge.
        ("Muon", "batch 128, lr 0.0043", 0),
        ("Muon", fourth[1].method, 1),
        ("Muon", fourth[1].method, 2),
    ]
