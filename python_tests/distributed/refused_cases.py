"""What is refused where several processes train: run on every rank by ``support.ranks``."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import torch.distributed as dist
from small_models import data, loss, network, share
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import adadagrad_kernels as adk


def layer_statistics_of_a_bare_model() -> Any:
    adk.layer_statistics(network())


def layer_statistics_of_the_module_of_a_wrapper() -> Any:
    adk.layer_statistics(DistributedDataParallel(network()).module)


def per_sample_gradients_without_a_wrapper() -> Any:
    adk.PerSampleGradients(network(), loss)


def backward_with_statistics_of_a_bare_model() -> Any:
    adk.backward_with_statistics(network(), loss, *share())


def micro_batch_gradients_without_a_wrapper() -> Any:
    adk.MicroBatchGradients(network())


def lookups_of_one_rank() -> Any:
    adk.EmbeddingMean(nn.Embedding(5, 2))


def sparse_svrg() -> Any:
    adk.SparseSvrg(torch.zeros(2), torch.ones(2), torch.ones(2))


def no_such_ranks() -> Any:
    adk.layer_statistics(network(), ranks="all")


def entered_before_its_wrapping() -> Any:
    model = network()
    inputs, targets = share()
    with adk.layer_statistics(model, ranks="local") as recorder:
        loss(DistributedDataParallel(model)(inputs), targets).backward()
        recorder.statistics()


def micro_batches_before_the_wrapping() -> Any:
    model = network()
    source = adk.MicroBatchGradients(model, ranks="local")
    inputs, targets = share()
    with source.micro_batch(len(inputs)):
        loss(DistributedDataParallel(model)(inputs), targets).backward()


def statistics_of_one_rank_decide() -> Any:
    inputs, targets = share()
    model = network()
    with adk.layer_statistics(model, ranks="local") as recorder:
        loss(model(inputs), targets).backward()
        record = recorder.statistics()
    controller = adk.BatchController(adk.NormTest(eta=0.5), batch_size=8, max_batch_size=64)
    controller.update(record)


def per_sample_statistics_of_one_rank_decide() -> Any:
    source = adk.PerSampleGradients(network(), loss, ranks="local")
    controller = adk.BatchController(adk.NormTest(eta=0.5), batch_size=8, max_batch_size=64)
    controller.update(source.backward(*share()))


def per_sample_statistics_of_one_rank_set_a_rate() -> Any:
    source = adk.PerSampleGradients(network(), loss, ranks="local")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    rate = adk.BatchSizeLR(optimizer, adk.AdaScale(8), batch_size=8)
    rate.update(16, source.backward(*share()))


def samples_of_one_rank_counted_with_the_pooled_record() -> Any:
    inputs, targets = share()
    model = DistributedDataParallel(network())
    controller = adk.BatchController(adk.NormTest(eta=0.5), batch_size=8, max_batch_size=64)
    with adk.layer_statistics(model) as recorder:
        loss(model(inputs), targets).backward()
        controller.update(recorder.statistics(), len(inputs))


def samples_of_one_rank_counted_by_step() -> Any:
    controller = adk.BatchController(None, batch_size=8, max_batch_size=8)
    for batch in adk.AdaptiveBatchSampler(64, controller):
        controller.step(len(batch))


def a_sampler_with_other_data_on_every_rank() -> Any:
    adk.AdaptiveBatchSampler(100 + dist.get_rank(), 8)


def a_sampler_that_is_told_its_rank_with_other_data() -> Any:
    share = {"rank": dist.get_rank(), "world_size": dist.get_world_size()}
    adk.AdaptiveBatchSampler(100 + dist.get_rank(), 8, **share)


def samplers_of_one_share() -> Any:
    adk.AdaptiveBatchSampler(100, 8, rank=0, world_size=dist.get_world_size())


def a_sampler_without_data_on_the_last_rank() -> Any:
    """Which alone is told so by its own arguments."""
    is_last = dist.get_rank() == dist.get_world_size() - 1
    adk.AdaptiveBatchSampler([] if is_last else range(100), 8)


def fixed_sizes_that_differ() -> Any:
    size = 8 if dist.get_rank() == 0 else 16
    adk.AdaptiveBatchSampler(100, adk.BatchController(None, batch_size=size, max_batch_size=16))


def schedules_that_differ() -> Any:
    """In what they say later; nothing of it would be measured."""
    schedule = adk.MilestoneSchedule({0: 8, 100 + dist.get_rank(): 16})
    adk.AdaptiveBatchSampler(100, adk.BatchController(schedule, max_batch_size=16))


def a_batch_smaller_than_the_world() -> Any:
    adk.AdaptiveBatchSampler(100, dist.get_world_size() - 1)


def a_rank_beyond_the_world() -> Any:
    adk.AdaptiveBatchSampler(100, 8, rank=dist.get_world_size())


def _resumed(saved: torch.optim.Optimizer, model: nn.Module) -> None:
    wrapper = DistributedDataParallel(model)
    optimizer = adk.Adagrad(wrapper.parameters(), lr=0.1)
    optimizer.load_state_dict(saved.state_dict())
    inputs, targets = share()
    loss(wrapper(inputs), targets).backward()
    optimizer.step()


def a_resume_into_another_optimizer() -> Any:
    _resumed(torch.optim.SGD(network().parameters(), lr=0.1), network())


def a_resume_into_another_model() -> Any:
    """Of as many parameters."""
    other = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)).double()
    saved = adk.Adagrad(other.parameters(), lr=0.1)
    loss(other(share()[0]), share()[1]).backward()
    saved.step()
    _resumed(saved, network())


def a_resume_with_another_criterion() -> Any:
    sizes = {"batch_size": 8, "max_batch_size": 64}
    controllers = [adk.BatchController(adk.NormTest(eta=eta), **sizes) for eta in (0.5, 0.7)]
    controllers[0].load_state_dict(controllers[1].state_dict())


def a_resume_with_other_data() -> Any:
    saved = adk.AdaptiveBatchSampler(101, 8).state_dict()
    adk.AdaptiveBatchSampler(100, 8).load_state_dict(saved)


def a_loader_that_accelerate_has_prepared() -> Any:
    from accelerate.data_loader import prepare_data_loader

    dataset = TensorDataset(torch.arange(64))
    loader = DataLoader(dataset, batch_sampler=adk.AdaptiveBatchSampler(dataset, 8))
    prepared = prepare_data_loader(
        loader,
        num_processes=dist.get_world_size(),
        process_index=dist.get_rank(),
        even_batches=False,
    )
    list(prepared)


def _sharded() -> Any:
    from torch.distributed.fsdp import fully_shard

    return fully_shard(network())


def per_sample_gradients_of_shards() -> Any:
    adk.PerSampleGradients(_sharded(), loss)


def micro_batch_gradients_of_shards() -> Any:
    adk.MicroBatchGradients(_sharded())


def statistics_of_one_ranks_shards() -> Any:
    adk.layer_statistics(_sharded(), ranks="local")


def shards_of_other_ranks() -> Any:
    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    adk.layer_statistics(_sharded(), ranks=alone[dist.get_rank()])


def a_parameter_that_is_not_sharded() -> Any:
    from torch.distributed.fsdp import fully_shard

    model = network()
    adk.layer_statistics(fully_shard(model, ignored_params={model[1].weight}))


def a_module_without_a_kernel_that_is_sharded() -> Any:
    from torch.distributed.fsdp import fully_shard

    adk.layer_statistics(fully_shard(nn.Sequential(nn.Linear(6, 6), nn.PReLU(6))))


def some_layers_of_shards() -> Any:
    adk.layer_statistics(_sharded(), only=adk.is_normalization)


def groups_of_shards() -> Any:
    model = _sharded()
    adk.layer_statistics(model, groups={"all": model.parameters()})


def products_with_the_covariance_over_ranks() -> Any:
    model = DistributedDataParallel(network())
    inputs, targets = share()

    def losses() -> torch.Tensor:
        return nn.functional.cross_entropy(model.module(inputs), targets, reduction="none")

    with adk.layer_statistics(model, inner_products=True) as recorder:
        loss(model(inputs), targets).backward()
        recorder.statistics(losses, covariance_products=True)


def single_products_with_the_covariance_over_ranks() -> Any:
    model = DistributedDataParallel(network())
    adk.PerSampleGradients(model, loss, inner_products=True, covariance_products=True)


def norms_of_groups_of_one_rank_decide() -> Any:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    controller = adk.BatchController(adk.NormTest(eta=0.5), batch_size=4, max_batch_size=64)
    batches = adk.GroupBatches(optimizer, [controller])
    inputs, targets = share()
    with adk.layer_statistics(model, groups=batches.groups, ranks="local") as recorder:
        loss(model(inputs), targets).backward()
        batches.collect(recorder.statistics())


def _planned(plan: Any) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import parallelize_module

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return parallelize_module(network(), mesh, plan)


def forward_mode_of_a_plan() -> Any:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    model = _planned({"0": ColwiseParallel(), "3": RowwiseParallel()})
    model[1] = nn.Identity()  # else it would see a part of the features
    inputs, targets = data()
    with adk.layer_statistics(model) as recorder:
        loss(model(inputs), targets).backward()
        recorder.statistics(lambda: nn.functional.cross_entropy(model(inputs), targets))


def a_norm_of_some_features_outside_of_a_plan() -> Any:
    """Its gradients differ between ranks, and nothing adds them up."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    model = _planned({"0": ColwiseParallel(), "3": RowwiseParallel()})
    model[1] = nn.LayerNorm(16 // dist.get_world_size()).double()
    inputs, targets = data()
    with adk.layer_statistics(model) as recorder:
        loss(model(inputs), targets).backward()
        recorder.statistics()


def samples_that_a_plan_shares_out() -> Any:
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.parallel import SequenceParallel

    model = _planned({"1": SequenceParallel(sequence_dim=0)})
    model[0], model[2], model[3] = nn.Identity(), nn.Identity(), nn.Identity()
    with adk.layer_statistics(model) as recorder:
        outputs = model(torch.ones(4, 16, dtype=torch.float64))
        outputs.redistribute(placements=[Shard(0)]).to_local().square().mean().backward()
        recorder.statistics()


def a_plan_inside_of_another_world() -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (dist.get_world_size(), 1), mesh_dim_names=("data", "tensor"))
    model = parallelize_module(network(), mesh["tensor"], {"0": ColwiseParallel()})
    adk.layer_statistics(model)


#: What a case imports, for the process that the ranks are forks of.
SHARED = ["accelerate.data_loader"] if importlib.util.find_spec("accelerate") else []
CASES = (
    layer_statistics_of_a_bare_model,
    layer_statistics_of_the_module_of_a_wrapper,
    per_sample_gradients_without_a_wrapper,
    backward_with_statistics_of_a_bare_model,
    micro_batch_gradients_without_a_wrapper,
    lookups_of_one_rank,
    sparse_svrg,
    no_such_ranks,
    entered_before_its_wrapping,
    micro_batches_before_the_wrapping,
    statistics_of_one_rank_decide,
    per_sample_statistics_of_one_rank_decide,
    per_sample_statistics_of_one_rank_set_a_rate,
    samples_of_one_rank_counted_with_the_pooled_record,
    samples_of_one_rank_counted_by_step,
    a_sampler_with_other_data_on_every_rank,
    a_sampler_that_is_told_its_rank_with_other_data,
    samplers_of_one_share,
    a_sampler_without_data_on_the_last_rank,
    fixed_sizes_that_differ,
    schedules_that_differ,
    a_batch_smaller_than_the_world,
    a_rank_beyond_the_world,
    a_resume_into_another_optimizer,
    a_resume_into_another_model,
    a_resume_with_another_criterion,
    a_resume_with_other_data,
    a_loader_that_accelerate_has_prepared,
    per_sample_gradients_of_shards,
    micro_batch_gradients_of_shards,
    statistics_of_one_ranks_shards,
    shards_of_other_ranks,
    a_parameter_that_is_not_sharded,
    a_module_without_a_kernel_that_is_sharded,
    some_layers_of_shards,
    groups_of_shards,
    products_with_the_covariance_over_ranks,
    single_products_with_the_covariance_over_ranks,
    norms_of_groups_of_one_rank_decide,
    forward_mode_of_a_plan,
    a_norm_of_some_features_outside_of_a_plan,
    samples_that_a_plan_shares_out,
    a_plan_inside_of_another_world,
)
