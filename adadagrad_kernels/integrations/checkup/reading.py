"""Takes trainers apart, by the names of their classes: nothing is imported for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader

from adadagrad_kernels.batching import AdaptiveBatchSampler, SamplesLR
from adadagrad_kernels.integrations.checkup.parts import Loader, Part, Parts
from adadagrad_kernels.integrations.unsized import UnsizedLoader

LIGHTNING = ("lightning", "pytorch_lightning")
TRANSFORMERS = ("transformers",)
ACCELERATE = ("accelerate",)

ACCEPTED = (
    "a DataLoader, a Trainer of transformers, a Trainer or LightningModule of lightning, an "
    "Accelerator, an optimizer, a scheduler that is stepped in every optimizer step, a model, a "
    "callback, or several of them in a tuple, list or dict"
)


def is_a(thing: Any, packages: tuple[str, ...], name: str) -> bool:
    """Whether a class of that name and package is among its classes."""
    return any(
        kind.__name__ == name and kind.__module__.partition(".")[0] in packages
        for kind in type(thing).__mro__
    )


def read(thing: Any, parts: Parts, where: str = "") -> None:
    """Add an object's parts.

    Raises:
        ValueError: for what it cannot take apart.
    """
    if isinstance(thing, Mapping):
        for key, each in thing.items():
            read(each, parts, str(key))
        return
    if isinstance(thing, list | tuple):
        for each in thing:
            read(each, parts)
        return
    name = where or type(thing).__name__
    for recognises, reader in _READERS:
        if recognises(thing):
            parts.looked_at.append(name)
            reader(thing, parts, name)
            return
    raise ValueError(f"got a {type(thing).__name__}; accepted are {ACCEPTED}")


def _read_transformers(trainer: Any, parts: Parts, name: str) -> None:
    args = trainer.args
    parts.add_model(f"{name}.model", trainer.model)
    parts.add_optimizer(f"{name}.optimizer", trainer.optimizer)
    if trainer.lr_scheduler is not None:
        parts.schedulers.append(Part(f"{name}.lr_scheduler", trainer.lr_scheduler))
    elif not _overrides(trainer, "create_scheduler", TRANSFORMERS):
        kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
        if kind not in ("constant", "reduce_lr_on_plateau"):
            parts.plans.append(f"TrainingArguments(lr_scheduler_type={kind!r})")
    for callback in trainer.callback_handler.callbacks:
        parts.callbacks.append(Part(f"the callback {type(callback).__name__}", callback))
    steps = args.gradient_accumulation_steps
    parts.accumulation.append(Part(f"gradient_accumulation_steps={steps}", steps))
    size = args.per_device_train_batch_size
    parts.micro_batches.append(Part(f"per_device_train_batch_size={size}", size))
    if args.max_grad_norm:
        parts.clips.append(Part(f"max_grad_norm={args.max_grad_norm}", args.max_grad_norm))
    parts.by_length.append(name)
    if not args.ignore_data_skip:
        parts.recomputing.append(f"{name}, by ignore_data_skip=False")
    if trainer.train_dataset is not None:
        prepared = getattr(trainer.accelerator, "_dataloaders", [])
        before = list(prepared)
        loader = trainer.get_train_dataloader()
        prepared[:] = before  # this one is not trained on
        _read_loader(loader, parts, f"{name}.get_train_dataloader()")


def _read_lightning(trainer: Any, parts: Parts, name: str) -> None:
    parts.by_length.append(name)
    for callback in trainer.callbacks:
        parts.callbacks.append(Part(f"the callback {type(callback).__name__}", callback))
    steps = trainer.accumulate_grad_batches
    parts.accumulation.append(Part(f"accumulate_grad_batches={steps}", steps))
    connector = getattr(trainer, "_accelerator_connector", None)
    if getattr(connector, "use_distributed_sampler", False):
        parts.injecting.append(f"{name}, by use_distributed_sampler=True")
    for config in trainer.lr_scheduler_configs:
        _read_config(vars(config), parts, name)
    for optimizer in trainer.optimizers:
        parts.add_optimizer(f"{name}.optimizers", optimizer)
    if trainer.lightning_module is not None:
        parts.add_model(f"{name}.lightning_module", trainer.lightning_module)
    if trainer.train_dataloader is not None:
        _read_loader(trainer.train_dataloader, parts, f"{name}.train_dataloader")


def _read_lightning_module(module: Any, parts: Parts, name: str) -> None:
    parts.add_model(name, module)
    parts.callbacks.append(Part(f"the module {name}", module))
    if not _overrides(module, "configure_optimizers", LIGHTNING):
        return
    try:
        given = module.configure_optimizers()
    except RuntimeError as error:
        raise ValueError(
            f"{name}.configure_optimizers() does not run without its Trainer ({error}). Way out: "
            "pass its optimizer, its schedule and its parts, such as module.net, instead"
        ) from error
    for each in _flat(given):
        if isinstance(each, Mapping):
            parts.add_optimizer(f"{name}.configure_optimizers()", each.get("optimizer"))
            config = each.get("lr_scheduler", each)
            config = config if isinstance(config, Mapping) else {"scheduler": config}
            if config.get("scheduler") is not None:
                _read_config(config, parts, f"{name}.configure_optimizers()")
        elif isinstance(each, Optimizer):
            parts.add_optimizer(f"{name}.configure_optimizers()", each)
        # Schedulers without an interval are stepped once an epoch.


def _flat(given: Any) -> list[Any]:
    if isinstance(given, list | tuple):
        return [inner for each in given for inner in _flat(each)]
    return [given]


def _read_config(config: Mapping[str, Any], parts: Parts, name: str) -> None:
    if config.get("interval", "epoch") == "step":
        parts.schedulers.append(Part(f"{name}, interval='step'", config["scheduler"]))


def _read_accelerator(accelerator: Any, parts: Parts, name: str) -> None:
    steps = accelerator.gradient_accumulation_steps
    parts.accumulation.append(Part(f"gradient_accumulation_steps={steps}", steps))
    for loader in accelerator._dataloaders:
        _read_loader(loader, parts, f"a loader of {name}")
    for optimizer in accelerator._optimizers:
        parts.add_optimizer(f"an optimizer of {name}", optimizer)
    for scheduler in accelerator._schedulers:
        parts.schedulers.append(Part(f"a scheduler of {name}", scheduler))
    for model in accelerator._models:
        parts.add_model(f"a model of {name}", model)


def _read_loader(loader: Any, parts: Parts, name: str) -> None:
    if not _is_loader(loader):
        return  # of a trainer's own, such as a stream without a length
    sampler: Any = getattr(loader, "batch_sampler", getattr(loader, "batches", None))
    prepared = any(
        is_a(loader, ACCELERATE, kind) for kind in ("DataLoaderShard", "DataLoaderDispatcher")
    )
    pads = False
    while is_a(sampler, ACCELERATE, "BatchSamplerShard") or is_a(
        sampler, ACCELERATE, "SkipBatchSampler"
    ):
        pads |= bool(getattr(sampler, "even_batches", False))
        sampler = sampler.batch_sampler
    smallest = _smallest(loader, sampler)
    parts.loaders.append(Loader(name, loader, prepared, pads, sampler, smallest))


def _smallest(loader: Any, sampler: Any) -> int | None:
    """The fewest samples of a batch."""
    if isinstance(loader, UnsizedLoader):
        return loader.min_samples
    if isinstance(sampler, AdaptiveBatchSampler):
        return sampler._fewest // sampler.world_size
    size = getattr(sampler, "batch_size", None)
    dataset: Any = getattr(loader, "dataset", None)
    if not isinstance(size, int) or not hasattr(dataset, "__len__"):
        return None
    tail = 0 if getattr(sampler, "drop_last", False) else len(dataset) % size
    return tail or size


def _read_optimizer(optimizer: Any, parts: Parts, name: str) -> None:
    parts.add_optimizer(name, optimizer)


def _read_scheduler(scheduler: Any, parts: Parts, name: str) -> None:
    parts.schedulers.append(Part(name, scheduler))


def _read_model(model: nn.Module, parts: Parts, name: str) -> None:
    parts.add_model(name, model)


def _read_callback(callback: Any, parts: Parts, name: str) -> None:
    parts.callbacks.append(Part(f"the callback {name}", callback))


def _overrides(thing: Any, name: str, packages: tuple[str, ...]) -> bool:
    """Whether a method is of a class outside of the packages."""
    for kind in type(thing).__mro__:
        if name in vars(kind):
            return kind.__module__.partition(".")[0] not in packages
    return False


def _is_loader(thing: Any) -> bool:
    return isinstance(thing, DataLoader | UnsizedLoader) or is_a(
        thing, ACCELERATE, "DataLoaderAdapter"
    )


def _is_scheduler(thing: Any) -> bool:
    ours = isinstance(thing, LRScheduler | ReduceLROnPlateau | SamplesLR)
    return ours or is_a(thing, ACCELERATE, "AcceleratedScheduler")


def _is_optimizer(thing: Any) -> bool:
    return isinstance(thing, Optimizer) or is_a(thing, LIGHTNING, "LightningOptimizer")


def _is_callback(thing: Any) -> bool:
    return is_a(thing, TRANSFORMERS, "TrainerCallback") or is_a(thing, LIGHTNING, "Callback")


#: In the order in which they are asked: a LightningModule is a model too.
_READERS: tuple[tuple[Callable[[Any], bool], Callable[[Any, Parts, str], None]], ...] = (
    (lambda thing: is_a(thing, TRANSFORMERS, "Trainer"), _read_transformers),
    (lambda thing: is_a(thing, LIGHTNING, "Trainer"), _read_lightning),
    (lambda thing: is_a(thing, LIGHTNING, "LightningModule"), _read_lightning_module),
    (lambda thing: is_a(thing, ACCELERATE, "Accelerator"), _read_accelerator),
    (_is_loader, _read_loader),
    (_is_scheduler, _read_scheduler),
    (_is_optimizer, _read_optimizer),
    (_is_callback, _read_callback),
    (lambda thing: isinstance(thing, nn.Module), _read_model),
)
