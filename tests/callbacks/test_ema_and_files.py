"""The callbacks on their own: what is averaged when, and files that survive a stop."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks.checkpoints import Checkpoints
from callbacks.ema import EmaCallback
from callbacks.run_files import write_json
from lightning_modules.base import ExpertModule
from lightning_modules.schedules import WarmupCosine
from macedance.errors import ConfigError


class Tiny(ExpertModule):
    def __init__(self) -> None:
        super().__init__(lambda: torch.nn.Linear(2, 1), lambda p: torch.optim.SGD(p, lr=0.1))


def built() -> Tiny:
    module = Tiny()
    module.configure_model()
    return module


def test_the_network_is_built_once_and_by_the_seed() -> None:
    one, two = built(), built()
    assert torch.equal(one.network.weight, two.network.weight)
    network = one.network
    one.configure_model()
    assert one.network is network


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    built()
    assert torch.equal(torch.rand(1), expected)


def test_the_average_moves_once_per_optimizer_step() -> None:
    module, callback = built(), EmaCallback(decay=0.5, warmup=False)
    trainer = SimpleNamespace(global_step=0)
    callback.on_fit_start(trainer, module)
    with torch.no_grad():
        module.network.weight.add_(1.0)
    trainer.global_step = 1
    callback.on_train_batch_end(trainer, module, None, None, 0)
    callback.on_train_batch_end(trainer, module, None, None, 1)
    assert callback.average.num_updates == 1


def test_validation_sees_the_average_and_a_crash_gives_the_weights_back() -> None:
    module, callback = built(), EmaCallback(decay=0.5, warmup=False)
    callback.on_fit_start(SimpleNamespace(global_step=0), module)
    start = module.network.weight.detach().clone()
    with torch.no_grad():
        module.network.weight.add_(1.0)
    own = module.network.weight.detach().clone()
    callback.on_validation_start(None, module)
    assert torch.equal(module.network.weight, start)
    with callback.applied(module):
        assert torch.equal(module.network.weight, start)
    assert torch.equal(module.network.weight, start), "an inner context must not end the outer one"
    callback.on_exception(None, module, RuntimeError())
    assert torch.equal(module.network.weight, own)


def test_a_checkpoint_takes_and_gives_back_the_average() -> None:
    module, callback = built(), EmaCallback(decay=0.5)
    callback.on_fit_start(SimpleNamespace(global_step=0), module)
    callback.average.num_updates = 7
    content: dict = {}
    callback.on_save_checkpoint(None, module, content)
    assert set(content["ema"]) == {"weight", "bias"}
    with torch.no_grad():
        content["ema"]["weight"] = content["ema"]["weight"] + 1
    again = EmaCallback(decay=0.5)
    again.on_load_checkpoint(None, module, content)
    again.on_fit_start(SimpleNamespace(global_step=0), module)
    assert torch.equal(again.average.shadow["weight"], content["ema"]["weight"])
    assert again.average.num_updates == 7


def test_json_files_appear_whole(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("arguments", [{"every_n_steps": 0}, {"keep_last": 0}])
def test_checkpoints_check_their_numbers(arguments: dict) -> None:
    with pytest.raises(ConfigError):
        Checkpoints(**arguments)


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    schedule = WarmupCosine(warmup_steps=10, decay_start=0.5, final_ratio=0.1)
    factors = [schedule.factor(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert all(f == 1.0 for f in factors[10:50])
    assert all(a >= b for a, b in itertools.pairwise(factors[50:]))
    assert factors[100] == pytest.approx(0.1)
