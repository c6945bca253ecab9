"""What every rank of a world runs: AdaptiveTrainer on GPT-2 and BERT, one case after another."""

from __future__ import annotations

import functools
import os
import tempfile
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from trainer_models import Text, bert, gpt2, token_loss, weights
from transformers import Trainer, TrainerCallback, TrainingArguments

import adadagrad_kernels as adk
from adadagrad_kernels.integrations.huggingface import AdaptiveTrainer

SAMPLES = 250  # of data sets of 90


def world() -> tuple[int, int]:
    """Rank and number of processes; told to Accelerate as a launcher does."""
    rank, size = dist.get_rank(), dist.get_world_size()
    if size > 1:
        os.environ.update(LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29400", ACCELERATE_USE_CPU="1")
    return rank, size


def folder() -> str:
    """A new one, of all ranks."""
    found = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(found)
    return found[0]


def arguments(out: str, **changed: Any) -> TrainingArguments:
    world()
    settings: dict[str, Any] = {
        "use_cpu": True,
        "ddp_backend": "gloo",
        "per_device_train_batch_size": 4,
        "learning_rate": 0.02,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "max_grad_norm": 0.5,
        "dataloader_pin_memory": False,
        "seed": 5,
    }
    return TrainingArguments(out, **{**settings, **changed})


def controller(**changed: Any) -> adk.BatchController:
    settings: dict[str, Any] = {"batch_size": 8, "max_batch_size": 64, "growth_cap": 1.5}
    return adk.BatchController(adk.NormTest(eta=0.4), **{**settings, **changed})


class Sizes(TrainerCallback):
    """Notes what a callback of the user's sees after each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append((state.max_steps - state.global_step, state.epoch))


def trained(trainer: AdaptiveTrainer, noted: Sizes, data: Text) -> dict[str, Any]:
    history = [line for line in trainer.state.log_history if "loss" in line]
    return {
        "weights": weights(trainer.model),
        "sizes": [int(line["batch/used"]) for line in history],
        "rates": [line["learning_rate"] for line in history],
        "losses": [line["loss"] for line in history],
        "history": trainer.state.log_history,
        "drawn": list(data.drawn),
        "left": [left for left, _ in noted.seen],
        "epochs": [epoch for _, epoch in noted.seen],
        "state": (trainer.state.global_step, trainer.state.max_steps, trainer.state.epoch),
    }


def run(model: Any, data: Text, args: TrainingArguments, **more: Any) -> dict[str, Any]:
    noted = Sizes()
    optimizer = adk.Adagrad(model.parameters(), lr=args.learning_rate)
    trainer = AdaptiveTrainer(
        model,
        args,
        train_dataset=data,
        controller=more.pop("controller", None) or controller(),
        samples=more.pop("samples", SAMPLES),
        optimizers=(optimizer, None),
        callbacks=[noted, *more.pop("callbacks", [])],
        **more,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    return trained(trainer, noted, data)


def tokens() -> dict[str, Any]:
    """A mean over the tokens of each step, in float64, with an evaluation at every third."""
    args = arguments(folder(), eval_strategy="steps", eval_steps=3, lr_scheduler_type="linear")
    return run(
        gpt2(dtype=torch.float64),
        Text(),
        args,
        compute_loss_func=token_loss,
        eval_dataset=Text(11),
    )


def tokens_without_evaluation() -> dict[str, Any]:
    model = gpt2(dtype=torch.float64)
    return run(model, Text(), arguments(folder()), compute_loss_func=token_loss)


def samples() -> dict[str, Any]:
    """BERT ignores num_items_in_batch, though it accepts the number."""
    args = arguments(folder(), per_device_train_batch_size=3)
    return run(bert(), Text(classes=True), args)


def in_micro_batches() -> dict[str, Any]:
    """Sizes from the gradients of the micro-batches."""
    args = arguments(folder())
    return run(bert(), Text(classes=True), args, statistics="micro_batches")


def inner_products() -> dict[str, Any]:
    """Their mean is known to no micro-batch, so the samples run again."""
    test = adk.BatchController(adk.InnerProductTest(theta=0.4), batch_size=8, max_batch_size=64)
    args = arguments(folder(), num_train_epochs=1)
    return run(bert(), Text(classes=True), args, controller=test, samples=60)


class FirstUnlabelled(Text):
    """Without a label in the first four samples that are drawn, the first micro-batch."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        found = super().__getitem__(index)
        if len(self.drawn) <= 4:
            found["labels"] = torch.full_like(found["labels"], -100)
        return found


def without_first_labels() -> dict[str, Any]:
    """The loss of a micro-batch without labels is 0, which does not say what it is a mean over."""
    args = arguments(folder())
    return run(gpt2(), FirstUnlabelled(), args, samples=20)


def not_a_number() -> tuple[str, int, Tensor]:
    """From the last rank, in the second step."""
    model, decides = bert(), controller()

    def spoil(_: Any, __: Any, outputs: Tensor) -> Tensor:
        is_last = dist.get_rank() == dist.get_world_size() - 1
        return outputs * torch.nan if is_last and decides.steps == 1 else outputs

    model.classifier.register_forward_hook(spoil)
    data, args = Text(classes=True), arguments(folder())
    said = _said(run, model, data, args, controller=decides, samples=60)
    return said, decides.steps, weights(model)


def in_bfloat16() -> dict[str, Any]:
    """Autocast; the weights stay what they are."""
    args = arguments(folder(), bf16=True)
    return run(gpt2(), Text(), args, samples=60)


def again() -> tuple[Any, ...]:
    """Stopped at a checkpoint and resumed, with dropout and loader workers."""
    out = folder()
    settings: dict[str, Any] = {"dataloader_num_workers": 2, "save_steps": 3}
    whole = run(gpt2(0.1), Text(), arguments(folder(), **settings))
    settings["save_strategy"] = "steps"
    stopped = run(gpt2(0.1), Text(), arguments(out, **settings), callbacks=[Stop(5)])
    model, noted, data = gpt2(0.1), Sizes(), Text()
    resumed = AdaptiveTrainer(
        model,
        arguments(out, **settings),
        train_dataset=data,
        controller=controller(),
        samples=SAMPLES,
        optimizers=(adk.Adagrad(model.parameters(), lr=0.02), None),
        callbacks=[noted],
    )
    with torch.random.fork_rng():
        torch.manual_seed(99)  # the checkpoint has its own
        resumed.train(resume_from_checkpoint=f"{out}/checkpoint-3")
    dist.barrier()  # the first rank has saved
    found = [int(name.partition("-")[2]) for name in os.listdir(out) if "checkpoint" in name]
    return whole, stopped, trained(resumed, noted, data), found


class Stop(TrainerCallback):
    """Stops as if the machine had been taken away."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        control.should_training_stop |= state.global_step == self.step
        return control


def refused_settings() -> dict[str, str]:
    """What AdaptiveTrainer says of settings with which a growing batch would go wrong."""
    model, data = bert(), Text(classes=True)

    def made(args: TrainingArguments, **more: Any) -> None:
        more = {"controller": controller(), "train_dataset": data, **more}
        AdaptiveTrainer(model, args, **more)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    diversity = adk.BatchController(
        adk.GradientDiversity(delta=0.1, dataset_size=90), batch_size=8, max_batch_size=64
    )
    products = adk.BatchController(adk.InnerProductTest(0.5), batch_size=8, max_batch_size=64)
    out = folder()
    changed: dict[str, dict[str, Any]] = {
        "gradient_accumulation_steps": {"gradient_accumulation_steps": 4},
        "auto_find_batch_size": {"auto_find_batch_size": True},
        "group_by_length": {"train_sampling_strategy": "group_by_length"},
        "max_steps": {"max_steps": 10},
        "dataloader_drop_last": {"dataloader_drop_last": True},
        "logging_steps": {"logging_steps": 0.25},
        "restore_callback_states": {"restore_callback_states_from_checkpoint": True},
    }
    given: dict[str, tuple[TrainingArguments, dict[str, Any]]] = {
        name: (arguments(out, **settings), {}) for name, settings in changed.items()
    }
    given["scheduler"] = arguments(out), {"optimizers": (optimizer, steps)}
    given["gradient_diversity"] = arguments(out, save_strategy="steps"), {"controller": diversity}
    given["no_length"] = arguments(out), {"train_dataset": iter([])}
    given["statistics"] = arguments(out), {"statistics": "guessed"}
    more = {"statistics": "micro_batches", "controller": products}
    given["inner_products"] = arguments(out), more
    return {name: _said(made, args, **more) for name, (args, more) in given.items()}


def refused_losses() -> dict[str, str]:
    """What it says in the first step of losses that nobody can weigh."""

    def a_root(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return token_loss(outputs, labels, num_items_in_batch).sqrt()

    def own_tokens(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return token_loss(outputs, labels)

    class Own(AdaptiveTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return model(**inputs)["loss"]

    class Packed(Text):
        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"input_ids": self.tokens[index], "labels": self.tokens[index]}

    def packed(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        row = torch.cat([item["input_ids"] for item in items])[None, :16]
        return {"input_ids": row, "labels": row}

    args = arguments(folder(), per_device_train_batch_size=8)

    def trains(kind: Any = AdaptiveTrainer, model: Any = None, **more: Any) -> None:
        more = {"train_dataset": Text(), "controller": controller(), **more}
        kind(gpt2() if model is None else model, args, **more).train()

    return {
        "neither": _said(trains, compute_loss_func=a_root),
        "own_tokens": _said(trains, compute_loss_func=own_tokens),
        "no_super": _said(trains, Own, bert(), train_dataset=Text(classes=True)),
        "packed": _said(trains, train_dataset=Packed(), data_collator=packed),
    }


def refused_checkpoints() -> dict[str, str]:
    """What it says of checkpoints of other runs."""
    out = folder()
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    run(bert(), Text(classes=True), arguments(out, **settings), samples=30)
    plain = Trainer(
        bert(), arguments(f"{out}/plain", max_steps=2, **settings), train_dataset=Text(classes=True)
    )
    plain.train()

    def resumes(checkpoint: str = out, model: Any = None, **more: Any) -> None:
        model = bert() if model is None else model
        before = weights(model).clone()
        optimizer = more.pop("optimizer", adk.Adagrad)(model.parameters(), lr=0.02)
        test = more.pop("controller", None) or controller()
        data = more.pop("data", None) or Text(classes=True)
        trainer = AdaptiveTrainer(
            model,
            arguments(out, **settings),
            train_dataset=data,
            controller=test,
            samples=60,
            optimizers=(optimizer, None),
        )
        try:
            trainer.train(resume_from_checkpoint=f"{checkpoint}/checkpoint-2")
        finally:
            assert test.samples_seen == 0
            assert torch.equal(weights(model), before)

    other = adk.BatchController(adk.NormTest(eta=0.7), batch_size=8, max_batch_size=64)
    return {
        "model": _said(resumes, model=gpt2()),
        "optimizer": _said(resumes, optimizer=torch.optim.SGD),
        "criterion": _said(resumes, controller=other),
        "data": _said(resumes, data=Text(91, classes=True)),
        "plain": _said(resumes, f"{out}/plain"),
    }


def trained_again() -> tuple[dict[str, Any], list[int]]:
    """A second call of train begins anew, with the weights of the first."""
    data, noted, model = Text(classes=True), Sizes(), bert()
    args = arguments(folder(), eval_strategy="epoch", num_train_epochs=2)
    trainer = AdaptiveTrainer(
        model,
        args,
        train_dataset=data,
        eval_dataset=Text(12, classes=True),
        controller=controller(),
        callbacks=[noted],
    )
    trainer.train()
    first = trained(trainer, noted, data)
    data.drawn.clear()
    trainer.train()
    return first, list(data.drawn)


def _said(action: Any, *args: Any, **kwargs: Any) -> str:
    """The error that an action ends with."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def of(processes: int, case: Any) -> Any:
    """A case that other worlds skip."""

    @functools.wraps(case)
    def run_there() -> Any:
        return case() if dist.get_world_size() == processes else None

    return run_there


CASES = [
    tokens,
    samples,
    in_micro_batches,
    of(2, again),
    of(2, not_a_number),
    *map(
        functools.partial(of, 1),
        (
            tokens_without_evaluation,
            inner_products,
            in_bfloat16,
            without_first_labels,
            trained_again,
            refused_settings,
            refused_losses,
            refused_checkpoints,
        ),
    ),
]
