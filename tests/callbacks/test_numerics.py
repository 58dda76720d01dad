"""Skipped steps leave no trace but a line in skipped.jsonl, and too many of them end the run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_optimizer import Adan
from torch.overrides import TorchFunctionMode

from callbacks.numerics import LossSpike, NonFinite, Verdict, cut_after, refusals
from macedance.errors import ConfigError, NumericsError


class Line(pl.LightningModule):
    """A line through points; samples whose key says so spoil the loss or only its gradient."""

    def __init__(self, kind: type[torch.optim.Optimizer] = torch.optim.AdamW, **options: Any) -> None:
        super().__init__()
        self.kind, self.options = kind, options
        torch.manual_seed(1)
        self.net = torch.nn.Linear(3, 1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        loss = (self.net(batch["x"]) - 1).square().mean()
        for key in batch["keys"]:
            if key.startswith("nan"):
                loss = loss * math.nan
            if key.startswith("steep"):  # the loss is finite, its gradient is not
                loss = loss + (self.net.weight.sum() * 0).sqrt()
            if key.startswith("high"):
                loss = loss * 1e4
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.kind(self.parameters(), lr=0.05, **self.options)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 if self.options == {} else 1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Points(torch.utils.data.Dataset):
    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> dict[str, Any]:
        seed = int("".join(c for c in self.keys[number] if c.isdigit()))
        return {"x": torch.rand(4, 3, generator=torch.Generator().manual_seed(seed)), "keys": [self.keys[number]]}


def train(folder: Path, keys: str, *callbacks: pl.Callback, model: Line | None = None, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(folder), callbacks=list(callbacks), **options,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Points(keys.split()), batch_size=None)
    trainer.fit(model or Line(), loader)
    return trainer


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text(encoding="utf-8").splitlines()]


def plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {str(k): plain(v) for k, v in state.items()}
    if isinstance(state, list):
        return [plain(v) for v in state]
    return state.tolist() if isinstance(state, torch.Tensor) else state


@pytest.mark.parametrize("bad", ["nan9", "steep9"])
@pytest.mark.parametrize(
    ("kind", "options", "trainer_options"),
    [
        (torch.optim.AdamW, {}, {}),
        (torch.optim.AdamW, {"foreach": True}, {"gradient_clip_val": 0.1}),
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}, {"precision": "bf16-mixed"}),
        (Adan, {"weight_decay": 0.02}, {}),
    ],
)
def test_a_skipped_step_is_as_if_its_samples_were_not_there(
    tmp_path: Path, bad: str, kind: type[torch.optim.Optimizer], options: dict, trainer_options: dict
) -> None:
    one, two = Line(kind, **options), Line(kind, **options)
    skipping = train(tmp_path, f"a1 a2 {bad} a3 a4", NonFinite(), model=one, **trainer_options)
    plainly = train(tmp_path / "plain", "a1 a2 a3 a4", model=two, **trainer_options)
    assert skipping.global_step == 5
    assert skipping.lr_scheduler_configs[0].scheduler.last_epoch == 5
    assert torch.equal(one.net.weight, two.net.weight)
    assert plain(skipping.optimizers[0].state_dict()) == plain(plainly.optimizers[0].state_dict())
    assert torch.isfinite(one.net.weight).all()
    (line,) = lines(tmp_path)
    assert (line["step"], line["rank"], line["keys"]) == (3, 0, [bad])
    assert line["reason"] == ("loss" if bad == "nan9" else "grad")
    assert line["loss"] == "nan" if bad == "nan9" else isinstance(line["loss"], float)


def test_without_the_callback_the_same_run_is_ruined(tmp_path: Path) -> None:
    model = Line()
    train(tmp_path, "a1 nan9 a2", model=model)
    assert not torch.isfinite(model.net.weight).all()


def test_one_bad_micro_batch_refuses_the_whole_step_and_names_all_its_samples(tmp_path: Path) -> None:
    one, two = Line(), Line()
    skipping = train(tmp_path, "a1 a2 a3 steep9 a5 a6", NonFinite(), model=one, accumulate_grad_batches=2)
    train(tmp_path / "plain", "a1 a2 a5 a6", model=two, accumulate_grad_batches=2)
    assert skipping.global_step == 3
    assert torch.equal(one.net.weight, two.net.weight)
    assert [(line["step"], line["keys"]) for line in lines(tmp_path)] == [(2, ["a3", "steep9"])]


def test_the_flag_stands_for_the_step_just_taken(tmp_path: Path) -> None:
    class Watch(pl.Callback):
        seen: list[bool] = []

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            self.seen.append(guard.skipped_this_step)

    guard, watch = NonFinite(), Watch()
    train(tmp_path, "a1 nan2 a3", guard, watch)
    assert watch.seen == [False, True, False]


@pytest.mark.parametrize(
    ("keys", "guard", "count"),
    [
        ("nan1 a2 nan3 a4 nan5 a6", NonFinite(budget=2, consecutive=2), 3),
        ("a1 nan2 nan3 nan4 a5", NonFinite(budget=9, consecutive=2), 3),
        ("nan1 a2", NonFinite(budget=0, consecutive=0), 1),
    ],
)
def test_one_skip_too_many_ends_the_run_naming_step_and_samples(
    tmp_path: Path, keys: str, guard: NonFinite, count: int
) -> None:
    with pytest.raises(NumericsError) as caught:
        train(tmp_path, keys, guard)
    last = lines(tmp_path)[-1]
    assert len(lines(tmp_path)) == count
    assert f"step {last['step']}" in str(caught.value)
    assert last["keys"][0] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_good_step_ends_the_row_and_not_the_budget(tmp_path: Path) -> None:
    guard = NonFinite(budget=4, consecutive=2)
    train(tmp_path, "nan1 nan2 a3 nan4 nan5 a6", guard)
    assert (guard.budget.skipped, guard.budget.in_a_row) == (4, 0)


def test_counters_and_statistics_go_through_a_checkpoint(tmp_path: Path) -> None:
    guard, spike = NonFinite(), LossSpike(window=8, min_steps=2, sigmas=50.0)
    trainer = train(tmp_path, "a1 a2 a3 nan4", guard, spike)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    states = torch.load(tmp_path / "c.ckpt", weights_only=True)["callbacks"]
    again, spike_again = NonFinite(), LossSpike(window=8, min_steps=2, sigmas=50.0)
    again.load_state_dict(states["NonFinite"])
    spike_again.load_state_dict(states["LossSpike"])
    assert again.state_dict() == guard.state_dict() == {"skipped": 1, "in_a_row": 1}
    assert spike_again.limit == spike.limit < math.inf
    assert len(spike.state_dict()["losses"]) == 3, "a loss that is no number is no statistic"


def test_a_spike_is_skipped_on_its_own_budget(tmp_path: Path) -> None:
    guard, spike = NonFinite(budget=0, consecutive=0), LossSpike(sigmas=3.0, window=8, min_steps=4, budget=1)
    train(tmp_path, "a1 a2 a3 a4 a5 high6 a7", guard, spike)
    (line,) = lines(tmp_path)
    assert (line["reason"], line["step"], line["keys"]) == ("spike", 6, ["high6"])
    assert (guard.budget.skipped, spike.budget.skipped) == (0, 1)
    with pytest.raises(NumericsError, match="spike"):
        train(tmp_path / "two", "a1 a2 a3 a4 a5 high6 high7", NonFinite(), LossSpike(3.0, 8, 4, budget=1))


def test_a_spike_does_not_hide_the_next_and_a_new_level_is_believed_in_time() -> None:
    spike = LossSpike(sigmas=4.0, window=16, min_steps=8)
    for k in range(16):
        assert not spike.judge([1.0 + 0.1 * (k % 2)])
    assert spike.judge([1e6]) == {0: "spike"}
    assert spike.judge([1e3, 1.0]) == {0: "spike"}, "the ranks above the limit are named"
    assert any(not spike.judge([2.0]) for _ in range(16))


def test_a_spike_before_the_statistics_stand_passes() -> None:
    spike = LossSpike(sigmas=1.0, window=8, min_steps=4)
    assert not any(spike.judge([loss]) for loss in (1.0, 1.1, 1e9))


def test_a_spike_guard_does_not_stand_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NonFinite"):
        train(tmp_path, "a1", LossSpike())


@pytest.mark.parametrize("wrong", [{"budget": -1}, {"consecutive": -1}])
def test_numbers_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        NonFinite(**wrong)
    with pytest.raises(ConfigError):
        LossSpike(**wrong)
    with pytest.raises(ConfigError):
        LossSpike(window=8, min_steps=9)


def verdict(loss: float = 1.0, summed: bool = True, local: bool = True, knows: bool = True) -> Verdict:
    return Verdict(loss, summed, local, knows)


def test_blame_goes_to_the_ranks_that_brought_it() -> None:
    nan = math.nan
    assert refusals([verdict(), verdict()]) == {}
    assert refusals([verdict(summed=False), verdict(nan, False, False)]) == {1: "loss"}
    assert refusals([verdict(summed=False), verdict(1.0, False, False)]) == {1: "grad"}
    assert refusals([verdict(summed=False, knows=False), verdict(nan, knows=False)]) == {1: "loss"}
    assert refusals([verdict(summed=False, knows=False), verdict(knows=False)]) == {0: "grad", 1: "grad"}
    assert refusals([verdict(math.inf), verdict(-math.inf)]) == {0: "loss", 1: "loss"}


def test_a_resume_forgets_the_lines_of_steps_that_it_takes_again(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    path.write_text('{"step": 2, "keys": ["a"]}\n{"step": 5, "keys": ["b"]}\n{"step": 1', encoding="utf-8")
    cut_after(path, 4)
    assert [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()] == [2]
    cut_after(tmp_path / "none.jsonl", 4)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_trial_run_writes_nothing(tmp_path: Path) -> None:
    train(tmp_path, "nan1 a2", NonFinite(), fast_dev_run=2)
    assert not (tmp_path / "skipped.jsonl").exists()


class Reads(TorchFunctionMode):
    """Counts the reads of tensors by the host, which wait for a device."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = {"item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"}
        self.count += getattr(func, "__name__", "") in names
        return func(*args, **(kwargs or {}))


def test_the_host_reads_once_for_each_optimizer_step(tmp_path: Path) -> None:
    class Counted(NonFinite):
        reads = 0

        def counted(self, name: str, *args: Any) -> None:
            with Reads() as mode:
                getattr(NonFinite, name)(self, *args)
            type(self).reads += mode.count

        def on_train_batch_start(self, *args: Any) -> None:
            self.counted("on_train_batch_start", *args)

        def on_before_backward(self, *args: Any) -> None:
            self.counted("on_before_backward", *args)

        def on_before_optimizer_step(self, *args: Any) -> None:
            self.counted("on_before_optimizer_step", *args)

        def on_train_batch_end(self, *args: Any) -> None:
            self.counted("on_train_batch_end", *args)

    train(tmp_path, "a1 a2 a3 a4 a5 a6", Counted(), accumulate_grad_batches=2)
    assert Counted.reads == 3
