"""The small models whose training steps are measured."""

from __future__ import annotations

import torch
from support.train_step_cases import each_case

from benchmarks.train_steps.models import Case, cnn, gpt, mlp


def test_the_models_are_those_that_are_named() -> None:
    parameters = {
        name: sum(p.numel() for p in case.build().model.parameters())
        for name, case in {"mlp": mlp(1), "cnn": cnn(1), "gpt": gpt(1)}.items()
    }
    assert parameters == {"mlp": 5_824_522, "cnn": 28_938, "gpt": 3_716_608}


@each_case
def test_a_case_is_the_same_every_time_and_leaves_the_generator_alone(case: Case) -> None:
    state = torch.get_rng_state()
    one, other = case.build(), case.build()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.loss(), other.loss())
    assert one.model is not other.model
