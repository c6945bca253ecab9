"""Whether the samples of a batch are apart from each other, asked of the model itself.

A model whose layers mix samples has no per-sample gradients, and nothing in a backward pass tells.
Nor does a shape tell positions from samples where there are as many. So before the first measured
forward pass a few samples are run three times: as they are; with another in the place of the first,
which must change nothing for the others; and fewer of them, which tells what grows with the batch.
The question is put again for every form of the model's arguments, and where its mode has changed.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.memory import is_out_of_memory
from adadagrad_kernels.statistics.contents import Contents
from adadagrad_kernels.statistics.measuring.trial import Call, Question, Trial, Watch

_TOLERANCE = 1e-3
#: Of whole numbers among the arguments, for each of which a model is asked anew.
_MOST_NUMBERS = 8


class Rows(Enum):
    """What the rows of a layer's input are."""

    SAMPLES = "samples"
    SHARED = "shared by all samples"
    ELSEWHERE = "samples, but not one for each"
    ROUTED = "as many as the inputs decide"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answer:
    """What a model says of a form of its arguments.

    Attributes:
        first: the place of the first tensor that has samples, among those of the arguments.
        exchanged: whether samples were exchanged, which takes two of them.
        rows: what the rows of a layer's inputs are, in every call, by its name.
        batched: which tensors among the arguments of its calls have samples.
        users: layers that use parameters which they may only hold for others.
        doubt: why it could not be asked, or None.
    """

    first: int | None = None
    exchanged: bool = False
    rows: Mapping[str, tuple[Rows, ...]] = field(default_factory=dict)
    batched: Mapping[str, tuple[tuple[bool, ...], ...]] = field(default_factory=dict)
    users: frozenset[str] | None = None
    doubt: str | None = None

    def rows_of(self, layer: str, call: int | None) -> Rows:
        """What the rows of its input are, in a call of this forward pass."""
        kinds = self.rows.get(layer, ())
        if call is not None and call < len(kinds):
            return kinds[call]
        return kinds[0] if kinds and len(set(kinds)) == 1 else Rows.UNKNOWN

    def batched_in(self, layer: str, call: int | None, count: int) -> tuple[bool, ...] | None:
        """Which of ``count`` tensors among its arguments have samples; None if unknown."""
        calls = self.batched.get(layer, ())
        known = call is not None and call < len(calls)
        flags = calls[call or 0] if known else calls[0] if len(set(calls)) == 1 else ()
        return flags if len(flags) == count and count else None


_Answers = dict[Any, dict[tuple[int, ...], Answer]]
#: Models that were asked already, by the form of their arguments and the numbers among them.
_asked: weakref.WeakKeyDictionary[nn.Module, _Answers] = weakref.WeakKeyDictionary()


def ask_once(
    model: nn.Module, forward: Callable[..., Any], watch: Watch | None, args: Any, kwargs: Any
) -> tuple[Answer, int | None]:
    """What the model says of such arguments, and the samples of these.

    Args:
        model: asked once for each form of its arguments; later calls return the answer.
        forward: its forward, with layers that are not measured.
        watch: of its layers; None where nothing is asked of them.
        args: of the model's call.
        kwargs: likewise.

    Raises:
        UnsupportedModelError: naming the first module that mixes samples.
    """
    contents = Contents.of((args, kwargs))
    known = _asked.setdefault(model, {})
    form, numbers = (watch is None, _form(model, contents)), contents.numbers
    # What counts the steps among the arguments is no other way to call the model.
    if len(known.setdefault(form, {})) >= _MOST_NUMBERS:
        numbers = next(reversed(known[form]))
    answer = known[form].get(numbers)
    if answer is None:
        answer = _ask(Question(model, forward, watch or Watch(), contents))
        if answer.doubt:
            warnings.warn(
                f"{type(model).__name__} could not be asked whether the samples of a batch are "
                f"apart from each other: {answer.doubt}. Its rows are taken for samples. Way out: "
                "adadagrad_kernels.check_statistics compares the record with one sample at a time",
                UserWarning,
                stacklevel=3,
            )
        # Samples that are all alike tell nothing; others will.
        if answer.exchanged or answer.doubt or _samples(contents, answer) in (None, 0, 1):
            known[form][numbers] = answer
    return answer, _samples(contents, answer)


def _samples(contents: Contents, answer: Answer) -> int | None:
    if answer.first is not None:
        return len(contents.tensors[answer.first])
    return next((len(t) for t in contents.tensors if t.dim()), None)


def _form(model: nn.Module, contents: Contents) -> Any:
    """Equal where the answer is.

    That is: the model's mode and flags, the arguments' flags, kinds and dimensions of tensors, and
    which of these are as long as others.
    """
    labels: dict[int, int] = {1: -1}
    for tensor in contents.tensors:
        if tensor.dim():
            labels.setdefault(len(tensor), len(labels))
    tensors = tuple(
        (tensor.dtype, tuple(labels.get(size) for size in tensor.shape))
        for tensor in contents.tensors
    )
    mode = tuple((module.training, *_flags(module)) for module in model.modules())
    return mode, tensors, tuple(contents.constants), torch.is_autocast_enabled("cpu")


def _flags(module: nn.Module) -> list[Any]:
    if type(module).__module__.startswith("torch."):
        return []
    return [v for v in vars(module).values() if v is None or isinstance(v, bool | str)]


def _ask(question: Question) -> Answer:
    tensors = question.contents.tensors
    if not any(tensor.dim() for tensor in tensors):
        return Answer(doubt="none of its arguments holds a tensor with rows")
    failure: Exception | None = None
    for resized, hooks in ((True, False), (True, True), (False, False), (False, True)):
        asked = replace(question, hooks=hooks)
        mixed: UnsupportedModelError | None = None
        for batched, first, masks_alone in _hypotheses(tensors):
            if mixed is not None and not masks_alone and not (resized and first):
                continue  # it might leave out what is mixed
            try:
                return _judged(asked, batched, resized)
            except UnsupportedModelError as error:
                mixed = mixed or error
            except Exception as error:  # what takes no other batch than this cannot be asked so
                if isinstance(error, MemoryError) or is_out_of_memory(error):
                    raise
                failure = failure or error
        if mixed is not None:
            raise mixed
    return Answer(doubt=f"it does not run with other samples ({type(failure).__name__}: {failure})")


def _hypotheses(tensors: Sequence[Tensor]) -> Iterator[tuple[tuple[bool, ...], bool, bool]]:
    """Which tensors may have samples, and what is left out.

    Yields:
        Which have; whether the first of the likeliest has; whether masks of positions alone lack.
    """
    lengths = [len(tensor) if tensor.dim() else 0 for tensor in tensors]
    common = Counter(length for length in lengths if length)
    order = sorted(common, key=lambda length: (-common[length], lengths.index(length)))
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
                likeliest = length == order[0]
                yield kept, likeliest and kept[places[0]], likeliest and turn == 1


def _judged(question: Question, batched: tuple[bool, ...], resized: bool) -> Answer:
    """Where these tensors have samples.

    Raises:
        UnsupportedModelError: naming the first module that mixes samples.
        Exception: where the model cannot be run so.
    """
    given = [t for t, has in zip(question.contents.tensors, batched, strict=True) if has]
    samples, first = len(given[0]), batched.index(True)
    if not samples:
        return Answer(first)
    # Not as many as the batch has, so that what has their number of rows has samples.
    count = (3 if samples != 3 else 2) if resized else samples
    fewer = (2 if count == 3 and samples != 2 else 4) if resized else samples
    rows = [i % samples for i in range(count)]
    other = next((i for i in range(1, samples) if any(_differs(t, 0, i) for t in given)), None)
    one = question.run(rows, batched)
    two = one if other is None else question.run([other, *rows[1:]], batched)
    three = question.run([i % samples for i in range(fewer)], batched) if resized else None
    if three is not None and not _grows(one, three):
        raise ValueError("nothing that it computes grows with the batch")
    if three is not None:
        _require_proportional(one, three, count, fewer)
    doubt = None if _has_rows(one) else "what it gives has no rows for the samples, as a loss"
    if other is not None:
        mixing = _mixing(one, two, count)
        if mixing and _mixing(one, question.run(rows, batched), count):
            mixing, doubt = None, "it gives something else when it is run again as it was"
        if mixing:
            raise UnsupportedModelError(_mixes(mixing, question, rows, other))
    layers = set(one.calls) | set(two.calls) | set(three.calls if three else ())
    kinds, flags = {}, {}
    for name in layers:
        calls = [t.calls.get(name, []) for t in (one, two, *((three,) if three else ()))]
        kinds[name], flags[name] = _rows_in(calls, count, fewer, exchanged=other is not None)
    users = frozenset(one.users) if question.watch.holders else None
    return Answer(first, other is not None, kinds, flags, users, doubt)


def _rows_in(
    calls: list[list[Call]], count: int, fewer: int, *, exchanged: bool
) -> tuple[tuple[Rows, ...], tuple[tuple[bool, ...], ...]]:
    """What the rows of a layer are in each of its calls, and which tensors have samples."""
    if len({len(each) for each in calls}) != 1:
        sizes = (count, count, fewer)
        apart = all(
            call.rows[:1] == (size,)
            for each, size in zip(calls, sizes, strict=False)
            for call in each
        )
        return (Rows.SAMPLES if apart else Rows.ROUTED,), ()
    kinds: list[Rows] = []
    flags: list[tuple[bool, ...]] = []
    for together in zip(*calls, strict=True):
        if len({len(call.rows) for call in together}) != 1 or not together[0].rows:
            kinds.append(Rows.UNKNOWN)
            flags.append(())
            continue
        each = [
            _rows_of(
                [c.rows[i] for c in together],
                [c.inputs[i] for c in together],
                count,
                fewer,
                exchanged=exchanged,
            )
            for i in range(len(together[0].rows))
        ]
        kinds.append(each[0])
        flags.append(tuple(kind is Rows.SAMPLES for kind in each))
    return tuple(kinds), tuple(flags)


def _rows_of(
    rows: list[int], inputs: list[Tensor], count: int, fewer: int, *, exchanged: bool
) -> Rows:
    one, two = inputs[:2]
    changed = one.shape != two.shape or not torch.equal(one, two)
    resized = len(rows) > 2
    if rows[0] == rows[1] == count and (not resized or rows[2] == fewer):
        # In a run of all samples a table of as many positions looks alike but does not change.
        return Rows.SHARED if not resized and exchanged and not changed else Rows.SAMPLES
    if len(set(rows)) == 1:
        return Rows.ELSEWHERE if changed else Rows.SHARED
    merged = rows[0] == rows[1] and rows[0] % count == 0
    if merged and resized and rows[0] // count * fewer == rows[2]:
        return Rows.UNKNOWN
    return Rows.ROUTED


def _grows(one: Trial, other: Trial) -> bool:
    """Whether anything has another shape in a batch of another size."""
    shapes = [
        [[t.shape for t in outputs] for outputs in trial.outputs.values()]
        + [[call.rows for call in calls] for calls in trial.calls.values()]
        for trial in (one, other)
    ]
    return shapes[0] != shapes[1]


def _require_proportional(one: Trial, other: Trial, count: int, fewer: int) -> None:
    """Refuse outputs of the model whose rows are neither constant nor so many for each sample."""
    for ours, theirs in zip(one.result, other.result, strict=False):
        if not ours.dim() or not theirs.dim():
            continue
        rows = len(ours), len(theirs)
        if rows[0] != rows[1] and rows[0] * fewer != rows[1] * count:
            raise UnsupportedModelError(
                f"the model mixes the samples of a batch: it gives {rows[0]} rows for {count} "
                f"samples and {rows[1]} for {fewer}, as for pairs of them. Ways out: take the "
                "operation across the batch out of the model; or estimate the variance from "
                "micro-batches with MicroBatchGradients"
            )


def _has_rows(one: Trial) -> bool:
    return any(tensor.dim() for tensor in one.result)


def _differs(tensor: Tensor, one: int, other: int) -> bool:
    return not torch.equal(tensor[one], tensor[other])


def _mixing(one: Trial, two: Trial, count: int) -> str | None:
    """The first module whose outputs for other samples have changed."""
    for name, outputs in one.outputs.items():
        if name in two.outputs and not _equal(outputs, two.outputs[name], count):
            return name
    return None


def _mixes(name: str, question: Question, rows: list[int], other: int) -> str:
    """The message for a module that mixes samples, or that has them in the second dimension."""
    if _has_time_first(question):
        return (
            f"{name} mixes the rows of a batch, but not its columns: the samples are in the second "
            "dimension, [positions, samples, ...]. Way out: keep the batch first, "
            "[samples, positions, ...], with batch_first=True where a layer takes it"
        )
    return (
        f"{name} mixes the samples of a batch: what it gives for one of them changes when another "
        "is exchanged, so that a sample has no gradient of its own. Ways out: take the operation "
        "across the batch out of the model; or estimate the variance from micro-batches with "
        "MicroBatchGradients"
    )


def _has_time_first(question: Question) -> bool:
    """Whether samples in the second dimension are apart."""
    tensors = question.contents.tensors
    batched = [tensor.dim() > 1 for tensor in tensors]
    columns = {tensor.shape[1] for tensor in tensors if tensor.dim() > 1}
    if len(columns) != 1 or (samples := columns.pop()) < 2:
        return False
    try:
        one = question.run([0, *range(1, samples)], batched, 1)
        two = question.run([1, *range(1, samples)], batched, 1)
    except Exception:  # not so, then
        return False
    pairs = list(zip(one.result, two.result, strict=False))
    return bool(pairs) and all(
        a.dim() > 1 and a.shape[1] == samples and _close(a[:, 1:], b[:, 1:]) for a, b in pairs
    )


def _equal(ours: list[Tensor], theirs: list[Tensor], count: int) -> bool:
    """Whether all but the first sample agree, in any dimension that could be the samples'."""
    for one, other in zip(ours, theirs, strict=False):
        dimensions = [d for d, size in enumerate(one.shape) if size == count]
        if one.shape != other.shape or 0 not in dimensions:
            continue
        kept = ((one.narrow(d, 1, count - 1), other.narrow(d, 1, count - 1)) for d in dimensions)
        if not any(itertools.starmap(_close, kept)):
            return False
    return True


def _close(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    finite = one[one.isfinite()]
    scale = float(finite.abs().amax()) if finite.numel() else 0.0
    close = torch.isclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)
    return bool(close.all())
