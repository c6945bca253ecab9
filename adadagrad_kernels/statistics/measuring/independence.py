"""Whether the samples of a batch are independent, asked of the model itself.

A model whose layers mix samples has no per-sample gradients, and nothing in a backward pass shows
it. Nor does a shape distinguish positions from samples if there are equally many. So before the
first measured forward pass a few samples run four times: as they are; with another in the place of
the first, then of the last, which must change nothing for the others; and fewer of them, which
shows what grows with the batch. The model is asked again for every form of its arguments, when its
mode has changed, and now and then.
"""

from __future__ import annotations

import io
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.memory import is_out_of_memory
from adadagrad_kernels.statistics.contents import Contents
from adadagrad_kernels.statistics.measuring.answers import Answer, Asked
from adadagrad_kernels.statistics.measuring.mixing import (
    first_mixing,
    mixing_message,
    require_proportional,
)
from adadagrad_kernels.statistics.measuring.rows import rows_in
from adadagrad_kernels.statistics.measuring.together import Together
from adadagrad_kernels.statistics.measuring.trial import Question, Trial, Watch

#: Of whole numbers among arguments and attributes, for each of which a model is asked anew.
_MOST_NUMBERS = 8


#: Models that were asked already.
_asked: weakref.WeakKeyDictionary[nn.Module, Asked] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Reply:
    """What a model said of a call.

    Attributes:
        answer: the same for every call with arguments of one form.
        samples: number of samples in these arguments, or None.
        question: the call, which can be repeated.
        asked: how often the model was called with arguments of this form, if this call asked it;
            else 0.
    """

    answer: Answer
    samples: int | None
    question: Question
    asked: int


def ask_once(
    model: nn.Module,
    forward: Callable[..., Any],
    watch: Watch | None,
    args: Any,
    kwargs: Any,
    *,
    is_part: bool = False,
    together: Together | None = None,
) -> Reply:
    """What the model says of such arguments.

    Args:
        model: asked once for each form of its arguments; later calls return the answer.
        forward: its forward, with layers that are not measured.
        watch: of its layers; None where nothing is asked of them.
        args: of the model's call.
        kwargs: of the model's call.
        is_part: whether it is a part of the model in training, called alone.
        together: the ranks that can only run the model at the same time; all of them are here.

    Raises:
        UnsupportedModelError: naming the first module that mixes samples.
    """
    contents = Contents.of((args, kwargs))
    asked = _asked.get(model)
    if asked is None:
        asked = _asked[model] = Asked(model)
    flags, numbers = asked.attributes()
    tensors, constants = _form(contents)
    form = asked.form((watch is None, tensors), (flags, constants))
    numbers = (*contents.numbers, *numbers)
    known = asked.answers.setdefault(form, {})
    # A number that counts steps does not make another form of call.
    if len(known) >= _MOST_NUMBERS:
        numbers = next(reversed(known))
    answer, calls = known.get(numbers), 0
    question = Question(
        model, forward, watch or Watch(), contents, is_part=is_part, together=together
    )
    is_due = asked.is_due(form)
    asks = answer is None or (is_due and not answer.moves)
    if together is not None:
        asks = together.meet(asks=asks) and not together.failed
        # The step goes on unmeasured on all ranks.
        answer = Answer() if answer is None and together.failed else answer
    if asks or answer is None:
        ask = partial(_ask, question)
        answer = ask() if together is None else together.ask(ask, question.run_along)
        calls = asked.calls[form]
        # Samples that are all alike show nothing; later ones will.
        if answer.exchanged or answer.doubt or _samples(contents, answer) in (None, 0, 1):
            known[numbers] = answer
    return Reply(answer, _samples(contents, answer), question, calls)


#: Doubts that were told, by model.
_warned: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()


def warn_of_doubt(model: nn.Module, answer: Answer) -> None:
    """Warn once if the model could not be asked."""
    told = _warned.setdefault(model, set())
    if answer.doubt and answer.doubt not in told:
        told.add(answer.doubt)
        warnings.warn(
            f"{type(model).__name__} could not be asked whether it mixes the samples of a batch: "
            f"{answer.doubt}. Its rows are taken for samples. Way out: "
            "adadagrad_kernels.check_statistics compares the record with samples alone",
            UserWarning,
            stacklevel=4,
        )


def _samples(contents: Contents, answer: Answer) -> int | None:
    if any(answer.has_samples):
        return len(contents.tensors[answer.has_samples.index(True)])
    return next((len(t) for t in contents.tensors if t.dim()), None)


def _form(contents: Contents) -> Any:
    """A key: types and dimensions of the tensors, which dimensions agree, and flags."""
    labels: dict[int, int] = {1: -1}
    for tensor in contents.tensors:
        if tensor.dim():
            labels.setdefault(len(tensor), len(labels))
    tensors = tuple(
        (tensor.dtype, tuple(labels.get(size) for size in tensor.shape))
        for tensor in contents.tensors
    )
    return (tensors, torch.is_autocast_enabled("cpu")), tuple(contents.constants)


def _ask(question: Question) -> Answer:
    tensors = question.contents.tensors
    if question.is_part and all(t.dim() == 1 and not t.is_floating_point() for t in tensors):
        return Answer(doubt="a part of it is called alone with a row of indices, maybe positions")
    if question.contents.once:
        return Answer(doubt="an argument can be read only once, and asking would read it")
    if module := _module_with_iterator(question.model):
        return Answer(doubt=f"{module} holds an iterator, and asking would read on in it")
    if not any(tensor.dim() for tensor in tensors):
        return Answer(doubt="none of its arguments holds a tensor with rows")
    failure: Exception | None = None
    doubtful: Answer | None = None
    likely = _output_rows(question)
    for resized, hooks in ((True, False), (True, True), (False, False), (False, True)):
        asked = replace(question, hooks=hooks)
        mixed: UnsupportedModelError | None = None
        for batched, masks_alone in _hypotheses(tensors, likely):
            if mixed is not None and not masks_alone:
                continue  # it might leave out what is mixed
            try:
                answer = _answer_for(asked, batched, resized)
                if answer.doubt is None:
                    return answer
                doubtful = doubtful or answer
            except UnsupportedModelError as error:
                mixed = mixed or error
            except Exception as error:  # what takes no other batch than this cannot be asked so
                if isinstance(error, MemoryError) or is_out_of_memory(error):
                    raise
                failure = failure or error
        if mixed is not None:
            raise mixed
        if doubtful is not None:
            return doubtful
    return Answer(doubt=f"it does not run with other samples ({type(failure).__name__}: {failure})")


def _module_with_iterator(model: nn.Module) -> str | None:
    """The first module with an attribute that can be read only once."""
    for path, module in model.named_modules():
        for value in vars(module).values():
            inside = value if isinstance(value, list | tuple) else (value,)
            if any(hasattr(type(v), "__next__") and not isinstance(v, io.IOBase) for v in inside):
                return f"layer '{path}' ({type(module).__name__})" if path else "the model"
    return None


def _output_rows(question: Question) -> int | None:
    """Rows of its first output for the whole batch, if its arguments disagree on their rows.

    These are most likely the samples; other rows may be states of layers, or classes with which
    all samples are compared.
    """
    if len({len(tensor) for tensor in question.contents.tensors if tensor.dim()}) < 2:
        return None
    try:
        given = question.whole()
    except Exception as error:  # it is not known, then
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            raise
        return None
    return next((len(tensor) for tensor in given if tensor.dim()), None)


def _hypotheses(
    tensors: Sequence[Tensor], likely: int | None
) -> Iterator[tuple[tuple[bool, ...], bool]]:
    """Which tensors may have samples, and whether masks of positions alone were left out."""
    lengths = [len(tensor) if tensor.dim() else 0 for tensor in tensors]
    common = Counter(length for length in lengths if length)
    order = sorted(common, key=lambda n: (n != likely, -common[n], lengths.index(n)))
    for length in order[:3]:
        places = [place for place, rows in enumerate(lengths) if rows == length]
        # A mask of positions has as many rows as columns.
        square = [p for p in places if list(tensors[p].shape).count(length) > 1]
        left_out = [set[int](), set(square), *({p} for p in places[::-1]), set(places[1:])]
        seen = set()
        for turn, out in enumerate(left_out):
            kept = tuple(p in places and p not in out for p in range(len(tensors)))
            if any(kept) and kept not in seen:
                seen.add(kept)
                yield kept, turn == 1 and length == order[0]


def _answer_for(question: Question, batched: tuple[bool, ...], resized: bool) -> Answer:
    """Where these tensors have samples.

    Raises:
        UnsupportedModelError: naming the first module that mixes samples.
        Exception: where the model cannot be run so.
    """
    given = [t for t, has in zip(question.contents.tensors, batched, strict=True) if has]
    samples = len(given[0])
    if not samples:
        return Answer(batched)
    # Another number than the batch has, so that tensors with this many rows have samples.
    count = (3 if samples != 3 else 2) if resized else samples
    fewer = (2 if count == 3 and samples != 2 else 4) if resized else samples
    rows = [i % samples for i in range(count)]
    other = next((i for i in range(1, samples) if any(_differs(t, 0, i) for t in given)), None)
    one = question.run(rows, batched)
    three = question.run([i % samples for i in range(fewer)], batched) if resized else None
    if three is not None:
        if not _grows(one, three):
            raise ValueError("nothing that it computes grows with the batch")
        require_proportional(one, three, count, fewer)
    outputs = [tensor for tensor in one.result if tensor.dim()]
    if outputs and all(len(t) % count and t.shape[1:2] != (count,) for t in outputs):
        raise ValueError("its outputs have other rows than its arguments")
    moves = False
    doubt = None if outputs else "its output has no rows for the samples, as a loss"
    two = one
    if other is not None:
        exchanged = _exchanged(question, rows, [other, *rows[1:]], batched)
        if exchanged is None:
            doubt, other = "it does not run when a sample is exchanged for another", None
        else:
            two = exchanged
            mixing = first_mixing(one, two, count)
            if mixing and first_mixing(one, question.run(rows, batched), count):
                # Then a change does not show which sample caused it.
                mixing, moves = None, True
                doubt = "it returns something else when it runs again: something it keeps changes"
                two, other = one, None
            if not doubt and not mixing:
                # Exchanging the last sample shows what flows from later samples to earlier ones.
                last = _exchanged(question, rows, [*rows[:-1], rows[0]], batched)
                mixing = first_mixing(one, last, count, count - 1) if last else None
            if mixing:
                raise UnsupportedModelError(mixing_message(mixing, question))
    layers = set(one.calls) | set(two.calls) | set(three.calls if three else ())
    kinds, flags = {}, {}
    for name in layers:
        calls = [t.calls.get(name, []) for t in (one, two, *((three,) if three else ()))]
        kinds[name], flags[name] = rows_in(calls, count, fewer, exchanged=other is not None)
    users = frozenset(one.users) if question.watch.holders else None
    writers = frozenset(one.writers)
    return Answer(batched, other is not None, kinds, flags, users, writers, doubt, resized, moves)


def _grows(one: Trial, other: Trial) -> bool:
    """Whether anything has another shape in a batch of another size."""
    shapes = [
        [[t.shape for t in outputs] for outputs in trial.outputs.values()]
        + [[call.shapes for call in calls] for calls in trial.calls.values()]
        for trial in (one, other)
    ]
    return shapes[0] != shapes[1]


def _exchanged(
    question: Question, rows: list[int], others: list[int], batched: tuple[bool, ...]
) -> Trial | None:
    """The model run with other rows; None if it cannot run with them."""
    # Whole numbers may be places, such as where bags begin, that only make sense together.
    floating = any(tensor.is_floating_point() for tensor in question.contents.tensors)
    for of_numbers in (None, rows) if floating else (None,):
        try:
            return question.run(others, batched, of_numbers=of_numbers)
        except Exception as error:
            if isinstance(error, MemoryError) or is_out_of_memory(error):
                raise
    return None


def _differs(tensor: Tensor, one: int, other: int) -> bool:
    return not torch.equal(tensor[one], tensor[other])
