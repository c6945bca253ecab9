"""The traps, a row each: what is looked for, what it does, and what to change.

The findings, ``adadagrad-kernels doctor --help`` and the table of docs/guide/doctor.md are made
from these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader

from adadagrad_kernels.batching import SamplesLR
from adadagrad_kernels.integrations.checkup import code, reading
from adadagrad_kernels.integrations.checkup.parts import Parts
from adadagrad_kernels.integrations.samples_scheduler import SamplesScheduler

#: Packages whose own callbacks do what they do with care.
_FRAMEWORKS = (*reading.TRANSFORMERS, *reading.LIGHTNING, "adadagrad_kernels", "torch")
#: Settings that say how many batches make a step.
_ACCUMULATION = {"gradient_accumulation_steps", "accumulate_grad_batches"}
#: Hooks at which no batch of a step has been seen yet.
_BETWEEN_EPOCHS = {
    *("__init__", "setup", "on_init_end", "on_fit_start", "on_train_begin", "on_train_start"),
    *("on_epoch_begin", "on_epoch_end", "on_train_epoch_start", "on_train_epoch_end"),
}


@dataclass(frozen=True)
class Trap:
    """A trap.

    Attributes:
        code: by which findings are known; it never changes.
        what: what is looked for.
        reason: what goes wrong, without an error.
        change: what to do.
        find: the places in which it is, in words.
    """

    code: str
    what: str
    reason: str
    change: str
    find: Callable[[Parts], Iterator[str]]


def _accumulation_changed(parts: Parts) -> Iterator[str]:
    for part in parts.callbacks:
        for function in code.own_functions(part.value, _FRAMEWORKS):
            if function.__name__ in _BETWEEN_EPOCHS:
                continue
            for name in sorted(_ACCUMULATION & code.assigned(function)):
                yield f"{part.where} assigns {name} in {function.__name__}"


def _accumulation_beside_controller(parts: Parts) -> Iterator[str]:
    adaptive = [loader.where for loader in parts.loaders if loader.is_adaptive]
    for part in parts.accumulation:
        if part.value != 1 and adaptive:
            yield f"{part.where} with {adaptive[0]}"


def _exposed_batch_size(parts: Parts) -> Iterator[str]:
    for loader in parts.loaders:
        sampler = loader.sampler
        if sampler is None or loader.is_stock or getattr(sampler, "batch_size", None) is None:
            continue
        yield f"{loader.where}: {type(sampler).__name__}.batch_size is {sampler.batch_size}"


def _ignored_until_next_epoch(parts: Parts) -> Iterator[str]:
    for loader in parts.loaders:
        if loader.is_stock and loader.sampler.drop_last:
            yield f"{loader.where}: BatchSampler(drop_last=True)"


def _batch_size_changed(parts: Parts) -> Iterator[str]:
    for loader in parts.loaders:
        if not loader.is_stock or not isinstance(loader.loader, DataLoader) or loader.prepared:
            continue
        made, now = loader.loader.batch_size, loader.sampler.batch_size
        if made is not None and made != now:
            yield f"{loader.where}: made with batch_size={made}, its sampler has {now}"


def _counts_steps(parts: Parts) -> Iterator[str]:
    yield from parts.plans
    for part in parts.schedulers:
        scheduler = part.value
        while reading.is_a(scheduler, reading.ACCELERATE, "AcceleratedScheduler"):
            scheduler = scheduler.scheduler
        if isinstance(scheduler, SamplesScheduler | SamplesLR | ReduceLROnPlateau):
            continue
        if isinstance(scheduler, LambdaLR) and not any(
            code.reads_its_argument(function) for function in scheduler.lr_lambdas
        ):
            continue
        yield f"{part.where}: {type(scheduler).__name__}"


def _clipped_before_test(parts: Parts) -> Iterator[str]:
    reads = {"statistics", "result", "grad", "update"}
    for part in parts.callbacks:
        for function in code.own_functions(part.value, _FRAMEWORKS):
            if function.__name__ == "on_pre_optimizer_step" and reads & code.named(function):
                yield from (f"{part.where}, with {clip.where}" for clip in parts.clips)


def _batch_norm_of_one(parts: Parts) -> Iterator[str]:
    of_one = [part.where for part in parts.micro_batches if part.value == 1]
    of_one += [f"batches of {part.where}" for part in parts.loaders if part.smallest == 1]
    for part in parts.models:
        layers = [
            path
            for path, module in part.value.named_modules()
            if isinstance(module, _BatchNorm) and module.training
        ]
        if layers and of_one:
            yield f"{part.where}: layer {layers[0] or 'itself'!r}, with {of_one[0]}"


def _even_batches(parts: Parts) -> Iterator[str]:
    for loader in parts.loaders:
        if loader.pads:
            yield f"{loader.where}, by even_batches=True"


def _prepared_loader(parts: Parts) -> Iterator[str]:
    for loader in parts.loaders:
        if loader.prepared and loader.is_adaptive:
            yield loader.where


def _replaced_sampler(parts: Parts) -> Iterator[str]:
    for loader in parts.loaders:
        if isinstance(loader.loader, DataLoader) and loader.sampler and not loader.is_stock:
            yield from (f"{loader.where}, in {name}" for name in parts.injecting)


def _planned_by_length(parts: Parts) -> Iterator[str]:
    for loader in parts.loaders:
        if loader.is_adaptive and hasattr(loader.loader, "__len__"):
            yield from (f"{loader.where}, in {name}" for name in parts.by_length)


def _recomputed_place(parts: Parts) -> Iterator[str]:
    if any(loader.is_adaptive for loader in parts.loaders):
        yield from parts.recomputing


def _named_state(parts: Parts) -> Iterator[str]:
    for part in parts.optimizers:
        keys = [key for key in part.value.state if isinstance(key, str)]
        if keys:
            yield f"{part.where}: {type(part.value).__name__}.state[{keys[0]!r}]"


def _no_compiled_kernels(parts: Parts) -> Iterator[str]:
    reason = parts.installation and parts.installation["backends"].get("cpu")
    if reason:
        yield f"backend cpu: {reason}"


def _several_openmp(parts: Parts) -> Iterator[str]:
    runtimes = parts.installation["openmp"] if parts.installation else []
    if len(runtimes) > 1:
        yield ", ".join(runtimes)


_ADAPTIVE = "`AdaptiveBatchSampler(dataset, controller)`"
_TRAINERS = "`integrations.huggingface.AdaptiveTrainer`, `integrations.lightning.AdaptiveBatch`"

TRAPS = (
    Trap(
        "accumulation-changed",
        "a callback or module that assigns `gradient_accumulation_steps` or "
        "`accumulate_grad_batches` between steps",
        "Hugging Face's Trainer then steps in the middle of a group, on gradients that no rank has "
        "shared (weights of two ranks 0.03 apart after 128 samples); Lightning leaves out a "
        "`zero_grad()`, and a gradient counts twice",
        f"leave it at 1 and let a controller decide on the size of the batch: {_TRAINERS}",
        _accumulation_changed,
    ),
    Trap(
        "accumulation-beside-controller",
        "accumulation of several batches, each of the size that a controller decides on",
        "a step has that many times the samples of its test",
        "set it to 1; micro-batches are cut out of the batch (`micro_batch_cuts`)",
        _accumulation_beside_controller,
    ),
    Trap(
        "exposed-batch-size",
        "a batch sampler of your own with an attribute `batch_size`",
        "Accelerate takes batches of another size for the last ones: a third to two thirds of the "
        "samples are lost, and ranks get unequal numbers of batches",
        f"name the attribute otherwise, as {_ADAPTIVE} does",
        _exposed_batch_size,
    ),
    Trap(
        "drop-last-stock",
        "torch's own `BatchSampler` with `drop_last=True`",
        "it reads `batch_size` once an epoch: a new size is ignored until the next one begins",
        f"`DataLoader(dataset, batch_sampler=sampler)` with {_ADAPTIVE}",
        _ignored_until_next_epoch,
    ),
    Trap(
        "batch-size-changed",
        "a loader whose sampler has another `batch_size` than it was made with",
        "who asks the loader gets the old size, workers bring the new one late, and a place in the "
        "data that is counted in batches is another one: a resumed run repeats samples or leaves "
        "them out",
        f"`DataLoader(dataset, batch_sampler=sampler)` with {_ADAPTIVE}",
        _batch_size_changed,
    ),
    Trap(
        "step-scheduler",
        "a learning-rate schedule that counts optimizer steps",
        "a growing batch takes fewer steps than were planned: a warm-up lasts too long, and a "
        "decay never ends (at 28 to 70 % of its start instead of 0)",
        "count samples: `SamplesLR(scheduler, samples_per_step)`; in Lightning "
        "`adaptive.lr_scheduler(scheduler, samples_per_step)`",
        _counts_steps,
    ),
    Trap(
        "clipped-before-test",
        "a callback of Hugging Face's Trainer that reads gradients in `on_pre_optimizer_step`, "
        "with `max_grad_norm` above 0",
        "it runs behind the clipping: the norm of the mean is at most `max_grad_norm`, and the "
        "test compares it with a variance that was not clipped",
        "measure in `training_step`, as `integrations.huggingface.AdaptiveTrainer` does, or set "
        "`max_grad_norm=0`",
        _clipped_before_test,
    ),
    Trap(
        "batch-norm-of-one",
        "BatchNorm in training, and batches that may have a single sample on a process",
        "torch raises in the middle of a run, or normalises an image by itself alone",
        "`AdaptiveBatchSampler(..., min_samples=2)`, `per_device_train_batch_size=2` or more; or "
        "GroupNorm, with which every sample has a gradient of its own",
        _batch_norm_of_one,
    ),
    Trap(
        "even-batches",
        "a loader that Accelerate has prepared with `even_batches=True` for several processes",
        "the last batches are filled up with the first samples of the epoch, which then count "
        "twice in gradients and statistics",
        f"do not prepare the loader, and use {_ADAPTIVE}, which gives every rank its share",
        _even_batches,
    ),
    Trap(
        "prepared-loader",
        f"a loader with {_ADAPTIVE} that went through `Accelerator.prepare`",
        "Accelerate shares out batches of which every rank has its share already: on several "
        "processes half of the samples are lost, or a step has several times the decided size",
        "prepare model and optimizer alone",
        _prepared_loader,
    ),
    Trap(
        "replaced-sampler",
        "a DataLoader with a batch sampler of its own in a Lightning Trainer with "
        "`use_distributed_sampler=True`",
        "on several processes Lightning makes the sampler anew with arguments of torch's, or "
        "raises",
        "`Trainer(use_distributed_sampler=False)`; with AdaptiveBatch "
        "`adaptive.dataloader(dataset)`",
        _replaced_sampler,
    ),
    Trap(
        "planned-by-length",
        "a loader with a length and sizes that change, in a trainer",
        "steps, progress and the learning rate are planned with the length at the first size: a "
        "run ends early (7 of 12 steps), or its last batch is not known as the last",
        f"a loader without a length, as {_TRAINERS} make it",
        _planned_by_length,
    ),
    Trap(
        "recomputed-place",
        "Hugging Face's Trainer with `ignore_data_skip=False` and a sampler that knows its place",
        "a resumed run skips as many batches as there were steps, at the sizes of the start, and "
        "behind the place that the sampler has put back already",
        "`TrainingArguments(ignore_data_skip=True)`",
        _recomputed_place,
    ),
    Trap(
        "named-state",
        "an optimizer that keeps something in its state under a name instead of a parameter",
        "`torch.distributed.checkpoint.state_dict` raises KeyError when it is saved",
        "keep it in `param_groups`, or in an object with a `state_dict` of its own",
        _named_state,
    ),
    Trap(
        "no-compiled-kernels",
        "an installation without the compiled CPU kernels",
        "everything runs on plain torch, several times slower",
        "`adadagrad-kernels info` says why; build again with a C++20 compiler",
        _no_compiled_kernels,
    ),
    Trap(
        "several-openmp",
        "more than one OpenMP runtime in the process",
        "each has threads of its own, which take the cores from one another",
        "install packages that bring the same runtime, or set OMP_NUM_THREADS",
        _several_openmp,
    ),
)


def traps_table() -> str:
    """All rows as a table in Markdown."""
    rows = ["| code | what is found | what it does | what to change |", "|---|---|---|---|"]
    rows += [f"| `{trap.code}` | {trap.what} | {trap.reason} | {trap.change} |" for trap in TRAPS]
    return "\n".join(rows)
