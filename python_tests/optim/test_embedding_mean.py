"""`EmbeddingMean`: each row's gradient over the samples, or the positions, that looked it up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adadagrad_kernels.optim import EmbeddingMean
from adadagrad_kernels.statistics import backward_with_statistics

ROWS, FEATURES = 9, 5


def layer(sparse: bool = False, **options: object) -> nn.Embedding:
    return nn.Embedding(ROWS, FEATURES, sparse=sparse, dtype=torch.float64, **options)


def losses(embedding: nn.Embedding, indices: Tensor) -> Tensor:
    """One for each sample, of all its positions."""
    return embedding(indices).sin().flatten(1).sum(1)


def wanted(embedding: nn.Embedding, indices: Tensor, per: str = "sample") -> Tensor:
    """The definition: gradients of single samples, added up and divided row by row."""
    total = torch.zeros_like(embedding.weight)
    counts = torch.zeros(ROWS, dtype=torch.float64)
    for sample in indices:
        (own,) = torch.autograd.grad(losses(embedding, sample[None]).sum(), embedding.weight)
        total += own.to_dense()
        looked_up = sample.flatten() if per == "occurrence" else sample.unique()
        counts += torch.bincount(looked_up, minlength=ROWS)
    return total / counts.clamp(min=1)[:, None]


@pytest.fixture
def indices() -> Tensor:
    """Row 0 in every sample, the last in none; repeats within samples."""
    chosen = (torch.rand(12, 4) ** 2 * (ROWS - 1)).long()
    chosen[:, 0] = 0
    return chosen


def dense(embedding: nn.Embedding) -> Tensor:
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.is_sparse == embedding.sparse
    return embedding.weight.grad.to_dense()


@pytest.mark.parametrize("per", ["sample", "occurrence"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32], ids=str)
def test_is_the_mean_over_users(indices: Tensor, sparse: bool, per: str, kind: torch.dtype) -> None:
    embedding = layer(sparse)
    mean = EmbeddingMean(embedding, per=per)
    losses(embedding, indices.to(kind)).mean().backward()
    mean.rescale_()
    torch.testing.assert_close(dense(embedding), wanted(layer_like(embedding), indices, per))


def layer_like(embedding: nn.Embedding) -> nn.Embedding:
    """Another layer with the same weight, which nothing watches."""
    other = layer(embedding.sparse)
    other.load_state_dict(embedding.state_dict())
    return other


def test_it_differs_from_the_plain_gradient(indices: Tensor) -> None:
    embedding = layer()
    losses(embedding, indices).mean().backward()
    plain = dense(embedding).clone()
    assert (plain - wanted(embedding, indices)).abs().max() > 0.1
    torch.testing.assert_close(plain[0], wanted(embedding, indices)[0])  # all samples have it


@pytest.mark.parametrize("sparse", [False, True])
def test_accumulation_is_one_batch(indices: Tensor, sparse: bool) -> None:
    embedding = layer(sparse)
    mean = EmbeddingMean(embedding)
    for micro_batch in indices.split(4):
        (losses(embedding, micro_batch).mean() / 3).backward()
    mean.rescale_()
    torch.testing.assert_close(dense(embedding), wanted(layer_like(embedding), indices))


def test_two_lookups_of_one_pass_are_of_the_same_samples(indices: Tensor) -> None:
    embedding = layer()
    mean = EmbeddingMean(embedding)
    loss = losses(embedding, indices[:, :1]) + losses(embedding, indices[:, 1:])
    loss.mean().backward()
    mean.rescale_()
    torch.testing.assert_close(dense(embedding), wanted(layer_like(embedding), indices))


def test_only_what_the_backward_pass_reaches_counts(indices: Tensor) -> None:
    embedding = layer()
    mean = EmbeddingMean(embedding)
    losses(embedding, indices.flip(0)[:5])  # no backward
    with torch.no_grad():
        losses(embedding, indices[:3])
    checkpoint(losses, embedding, indices, use_reentrant=False).mean().backward()
    mean.rescale_()
    torch.testing.assert_close(dense(embedding), wanted(layer_like(embedding), indices))


def test_batches_do_not_mix(indices: Tensor) -> None:
    embedding = layer(sparse=True)
    mean = EmbeddingMean(embedding)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: mean.rescale_())
    for batch in (indices[:5], indices[5:]):
        expected = embedding.weight.detach() - 0.1 * wanted(layer_like(embedding), batch)
        optimizer.zero_grad()
        losses(embedding, batch).mean().backward()
        optimizer.step()
        torch.testing.assert_close(embedding.weight.detach(), expected.detach())
    before = embedding.weight.grad
    mean.rescale_()
    assert embedding.weight.grad is before, "nothing was looked up since"


def test_padding_and_keywords(indices: Tensor) -> None:
    embedding = layer(padding_idx=1)
    mean = EmbeddingMean(embedding)
    embedding(input=indices).sin().flatten(1).sum(1).mean().backward()
    mean.rescale_()
    expected = wanted(layer_like(embedding), indices)
    expected[1] = 0
    torch.testing.assert_close(dense(embedding), expected)


def test_one_index_for_each_sample_and_narrow_weights() -> None:
    embedding = nn.Embedding(3, 2, dtype=torch.bfloat16)
    mean = EmbeddingMean(embedding)
    embedding(torch.tensor([0, 0, 0, 2])).float().sum(1).mean().backward()
    mean.rescale_()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_removed_it_does_nothing(indices: Tensor) -> None:
    embedding = layer()
    with EmbeddingMean(embedding) as mean:
        losses(embedding, indices).mean().backward()
    plain = dense(embedding).clone()
    mean.rescale_()
    assert torch.equal(dense(embedding), plain)
    losses(embedding, indices).mean().backward()
    mean.rescale_()
    torch.testing.assert_close(dense(embedding), 2 * plain)


def test_refusals(indices: Tensor) -> None:
    with pytest.raises(ValueError, match=r"is a Linear; accepted is torch\.nn\.Embedding"):
        EmbeddingMean(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="'row'; accepted are sample, occurrence"):
        EmbeddingMean(layer(), per="row")
    embedding = layer()
    mean = EmbeddingMean(embedding)
    (losses(embedding, indices).sum() + losses(embedding, indices[:5]).sum()).backward()
    before = dense(embedding).clone()
    with pytest.raises(ValueError, match=r"of \[5, 12\] samples"):
        mean.rescale_()
    assert torch.equal(dense(embedding), before)
    mean.forget()
    mean.rescale_()
    assert torch.equal(dense(embedding), before)


def test_a_gradient_that_no_backward_pass_brought_is_refused() -> None:
    embedding = torch.nn.Embedding(6, 2)
    model = torch.nn.Sequential(embedding, torch.nn.Flatten(), torch.nn.Linear(6, 2))
    indices, targets = torch.randint(6, (4, 3)), torch.randint(2, (4,))
    with EmbeddingMean(embedding) as mean:
        backward_with_statistics(model, torch.nn.functional.cross_entropy, indices, targets)
        before = embedding.weight.grad.clone()
        with pytest.raises(ValueError, match="as backward_with_statistics does"):
            mean.rescale_()
        assert torch.equal(embedding.weight.grad, before)
        model.zero_grad()
        mean.rescale_()  # nothing to rescale, nothing to refuse
