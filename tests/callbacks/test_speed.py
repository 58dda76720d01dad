"""The figures of training speed: what they count, and that they are the same columns from the first step on."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks import speed
from callbacks.speed import Throughput, TrainingProgress, meta_copy, peak_flops, peak_memory_mb
from macedance.models.flops import forward_flops
from macedance.models.motion_expert import MotionExpert

CPU = torch.device("cpu")


class Clock:
    """A clock that the tests set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(speed.time, "monotonic", lambda: self.now)


class Logged:
    def __init__(self, network: torch.nn.Module | None = None) -> None:
        self.rows: list[dict[str, float]] = [{}]
        self.network = network

    def log(self, name: str, value: Any, **_: Any) -> None:
        if name in self.rows[-1]:
            self.rows.append({})
        self.rows[-1][name] = float(value)


def fake_trainer(device: torch.device = CPU, **extra: Any) -> Any:
    settings: dict[str, Any] = {"world_size": 1, "accumulate_grad_batches": 1, "max_steps": 10, **extra}
    return SimpleNamespace(
        strategy=SimpleNamespace(root_device=device), datamodule=SimpleNamespace(window_frames=32), **settings
    )


def batch(frames: int, samples: int = 2) -> dict[str, Any]:
    mask = torch.zeros(samples, 50, dtype=torch.bool)
    mask.view(-1)[:frames] = True
    return {"mask": mask, "keys": ["k"] * samples}


def run(callback: Throughput, trainer: Any, clock: Clock, steps: list[tuple[float, float, int]]) -> Logged:
    """Steps of (seconds waiting, seconds working, frames)."""
    module = Logged()
    callback.on_train_start(trainer, module)
    for wait, work, frames in steps:
        clock.now += wait
        callback.on_train_batch_start(trainer, module, batch(frames), 0)
        clock.now += work
        callback.on_train_batch_end(trainer, module, None, batch(frames), 0)
    return module


def test_figures_of_known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run(Throughput(window=2), fake_trainer(), Clock(monkeypatch), [(1, 1, 10), (0, 2, 30), (2, 2, 50)]).rows
    assert rows[0]["time/frames_per_second"] == pytest.approx(5)
    assert rows[1]["time/frames_per_second"] == pytest.approx(40 / 4)
    assert rows[2]["time/frames_per_second"] == pytest.approx(80 / 6), "the window holds two steps"
    assert rows[2]["time/samples_per_second"] == pytest.approx(4 / 6)
    assert [row["time/step_s"] for row in rows] == pytest.approx([2, 2, 3])
    assert [row["time/data_stall"] for row in rows] == pytest.approx([0.5, 0.25, 2 / 6])


def test_all_ranks_and_whole_optimizer_steps_count(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = fake_trainer(world_size=4, accumulate_grad_batches=2)
    rows = run(Throughput(window=1), trainer, Clock(monkeypatch), [(0, 1, 10), (0, 3, 10), (0, 3, 10)]).rows
    assert [row["time/step_s"] for row in rows] == pytest.approx([2, 4, 6])
    assert rows[1]["time/frames_per_second"] == pytest.approx(4 * 20 / 4)
    assert rows[1]["time/samples_per_second"] == pytest.approx(4 * 4 / 4)


def test_other_work_between_steps_is_no_waiting_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, callback, trainer, module = Clock(monkeypatch), Throughput(), fake_trainer(), Logged()
    run(callback, trainer, clock, [(0, 1, 10)])
    clock.now += 500
    callback.on_validation_end(trainer, module)
    callback.on_train_batch_start(trainer, module, batch(10), 0)
    clock.now += 1
    callback.on_train_batch_end(trainer, module, None, batch(10), 0)
    assert module.rows[0]["time/data_stall"] == 0
    assert module.rows[0]["time/step_s"] == pytest.approx(1)


def test_every_column_is_there_from_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run(Throughput(), fake_trainer(), Clock(monkeypatch), [(0, 1, 1)] * 3).rows
    assert [set(row) for row in rows] == [set(rows[0])] * 3
    names = {"frames_per_second", "samples_per_second", "step_s", "data_stall", "peak_memory_mb"}
    assert set(rows[0]) == {f"time/{name}" for name in names}


def test_frames_are_not_read_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {}
    module = SimpleNamespace(log=lambda name, value, **_: values.setdefault(name, value))
    callback, trainer = Throughput(), fake_trainer()
    callback.on_train_start(trainer, module)
    callback.on_train_batch_start(trainer, module, batch(5), 0)
    callback.on_train_batch_end(trainer, module, None, batch(5), 0)
    assert isinstance(values["time/frames_per_second"], torch.Tensor)


def test_peak_memory_is_what_the_process_holds() -> None:
    assert 50 < peak_memory_mb(CPU) < 64 * 1024
    block = torch.ones(64 * 2**18)
    assert peak_memory_mb(CPU) >= block.numel() * 4 / 2**20


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 311.9e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("Tesla V100-SXM2-16GB", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_peaks_by_name(name: str, flops: float | None) -> None:
    assert peak_flops(name) == flops


def network() -> MotionExpert:
    return MotionExpert(
        latent_dim=32, num_dance_layers=1, num_music_layers=1, num_heads=2, feedforward_dim=32, state_dim=4,
        num_genres=3,
    )  # fmt: skip


def test_operations_are_counted_on_a_copy_without_memory() -> None:
    real = network()
    copied = meta_copy(real)
    assert {t.device.type for t in [*copied.parameters(), *copied.buffers()]} == {"meta"}
    assert {t.device.type for t in real.parameters()} == {"cpu"}
    with torch.device("meta"):
        built = network()
    assert forward_flops(copied, 40) == forward_flops(built, 40) > 0


def on_gpu(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)


def gpu_row(monkeypatch: pytest.MonkeyPatch, name: str, model: torch.nn.Module | None) -> dict[str, float]:
    on_gpu(monkeypatch, name)
    callback, trainer = Throughput(), fake_trainer(torch.device("cuda", 0), world_size=2)
    callback.setup(trainer, Logged(model), "fit")
    return run(callback, trainer, Clock(monkeypatch), [(0, 0.5, 10)]).rows[0]


def test_use_of_a_known_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    row = gpu_row(monkeypatch, "NVIDIA H200", network())
    with torch.device("meta"):
        forward = forward_flops(network(), 32)
    assert row["time/mfu"] == pytest.approx(3 * forward * 2 / 0.5 / 989.4e12), "of this rank's own GPU"
    assert row["time/peak_memory_mb"] == 3 * 1024


def test_a_mask_of_pixels_counts_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    callback, trainer, module, clock = Throughput(), fake_trainer(), Logged(), Clock(monkeypatch)
    callback.on_train_start(trainer, module)
    clips = {"mask": torch.ones(2, 5, 4, 4, dtype=torch.bool), "keys": ["a", "b"]}
    callback.on_train_batch_start(trainer, module, clips, 0)
    clock.now += 0.5
    callback.on_train_batch_end(trainer, module, None, clips, 0)
    assert "time/frames_per_second" not in module.rows[0]
    assert module.rows[0]["time/samples_per_second"] == pytest.approx(4)


@pytest.mark.parametrize(("name", "model"), [("Tesla V100", network()), ("NVIDIA H200", torch.nn.Linear(2, 2))])
def test_use_of_an_unknown_gpu_or_network_is_nan_and_said_once(
    monkeypatch: pytest.MonkeyPatch, name: str, model: torch.nn.Module
) -> None:
    said: list[str] = []
    monkeypatch.setattr(speed, "rank_zero_info", said.append)
    row = gpu_row(monkeypatch, name, model)
    assert math.isnan(row["time/mfu"])
    assert len(said) == 1
    assert "mfu" in said[0]


def test_the_bar_looks_at_the_loss_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MACEDANCE_QUIET", raising=False)
    clock = Clock(monkeypatch)
    shown: list[int] = []
    bar = TrainingProgress(interval_s=1.0)
    trainer = fake_trainer(is_global_zero=True, callback_metrics={"train/loss": torch.tensor(1.0)}, global_step=0)
    bar.on_train_start(trainer, None)
    bar._progress = SimpleNamespace(update=lambda step, note: shown.append(step), __exit__=lambda *_: None)
    for step in range(1, 11):
        trainer.global_step = step
        clock.now += 0.4
        bar.on_train_batch_end(trainer, None, None, None, 0)
    assert shown == [1, 4, 7, 10]
    assert shown[-1] == trainer.max_steps
