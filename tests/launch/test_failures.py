"""One line for what broke a run: it names the cause, the place, and the settings as they are."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.call import _call_and_handle_interrupt
from torch.utils.data import DataLoader, Dataset

from launch.failures import explain_failure, is_interrupt
from macedance.errors import ConfigError, MaceDanceError


def fake_run(tmp_path: Path, *, device: str = "cpu", ranks: int = 1, **trainer: Any) -> Any:
    settings: dict[str, Any] = {
        "global_step": 4, "global_rank": 0, "world_size": ranks, "accumulate_grad_batches": 1, "precision": "32-true",
        "strategy": SimpleNamespace(root_device=torch.device(device), launcher=None), **trainer,
    }  # fmt: skip
    data = SimpleNamespace(global_batch_size=128, micro_batch_size=64, window_frames=1200, num_workers=4, cache_mb=512)
    model = SimpleNamespace(activation_checkpointing=None)
    return SimpleNamespace(trainer=SimpleNamespace(**settings), data=data, model=model, directory=tmp_path)


def line(error: BaseException, run: Any) -> str:
    explained = explain_failure(error, run)
    assert isinstance(explained, MaceDanceError)
    assert explained.exit_code == 1
    assert "\n" not in str(explained)
    return str(explained)


def in_order(text: str, *parts: str) -> bool:
    places = [text.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


def too_much() -> BaseException:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    return caught.value


def test_memory_of_the_machine_names_the_knobs_with_their_values(tmp_path: Path) -> None:
    for error in (too_much(), MemoryError("Unable to allocate 3 GiB")):
        text = line(error, fake_run(tmp_path))
        assert in_order(
            text, "out of memory", "step 5", "64 windows of 1200 frames", "--data.global_batch_size (now 128)",
            "--trainer.accumulate_grad_batches (now 1; 2 halves", "bf16-mixed (now 32-true)",
            "--model.activation_checkpointing (now off)", "--data.window_frames (now 1200)",
            "--data.num_workers (now 4)",
        )  # fmt: skip
        assert "zero" not in text, "one rank on a CPU has nobody to share with"


def test_what_was_asked_for_is_told_in_a_readable_unit(tmp_path: Path) -> None:
    assert f"{2**46 * 4 // 2**20} MiB more" in line(too_much(), fake_run(tmp_path))


def test_memory_of_a_gpu_says_how_much_was_missing_and_offers_sharding(tmp_path: Path) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of ...")
    text = line(error, fake_run(tmp_path, device="cuda:0", ranks=2, precision="bf16-mixed"))
    assert in_order(
        text, "cuda:0", "2.50 GiB", "strategies/zero2, then strategies/zero3, then strategies/zero3_offload"
    )
    assert "bf16-mixed" not in text, "that is what it has already"
    assert "num_workers" not in text


def test_an_error_that_came_of_lost_memory_is_found(tmp_path: Path) -> None:
    outer = ValueError("of a wrapper")
    outer.__cause__ = too_much()
    assert "out of memory" in line(outer, fake_run(tmp_path))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "[/build/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:40471",
            ["127.0.0.1", "left", "log of that rank"],
        ),
        (
            "[/build/gloo/transport/tcp/unbound_buffer.cc:88] Timed out waiting 1800000ms for recv operation",
            ["another rank gave no answer in time", "hang-rank"],
        ),
        (
            "NCCL error in: ProcessGroupNCCL.cpp:1, remote process exited or there was a network error\n"
            "Last error:\nsocketProgressOpt: Call to recv from 10.1.2.3<5001> failed : Connection reset by peer",
            ["10.1.2.3", "left"],
        ),
    ],
)
def test_a_lost_rank_is_named_by_its_address(tmp_path: Path, message: str, words: list[str]) -> None:
    text = line(RuntimeError(message), fake_run(tmp_path, ranks=2))
    assert all(word in text for word in words), text
    assert explain_failure(RuntimeError(message), fake_run(tmp_path)) is None, "a single rank has lost nobody"


def test_a_lost_rank_that_was_started_from_here_is_named_with_its_exit_code(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    child.wait()
    strategy = SimpleNamespace(root_device=torch.device("cpu"), launcher=SimpleNamespace(procs=[child]))
    run = fake_run(tmp_path, ranks=2, strategy=strategy)
    assert "rank 1 (exit code 3) left" in line(torch.distributed.DistBackendError("Connection closed by peer"), run)


class Dies(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> int:
        import os

        os.kill(os.getpid(), signal.SIGKILL)
        return number


def test_a_killed_loader_process_names_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(Dies(), num_workers=1))
    text = line(caught.value, fake_run(tmp_path))
    assert in_order(text, "a loader process (pid", "killed", "memory", "num_workers (now 4)", "cache_mb (now 512")


def test_lost_shared_memory_is_told_from_lost_memory(tmp_path: Path) -> None:
    message = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory."  # noqa: E501
    text = line(RuntimeError(message), fake_run(tmp_path))
    assert in_order(text, "pid 7", "shared memory", "/dev/shm")


def test_a_full_disk_names_the_folder_and_what_is_free(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    named = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "checkpoints" / "a.tmp"))
    assert in_order(line(named, run), f"{tmp_path}/checkpoints has", "GiB left", "keep_last_checkpoints")
    assert f"{tmp_path} has" in line(OSError(errno.ENOSPC, "No space left on device"), run)
    assert "a disk is full" in line(RuntimeError("safetensors: I/O error: No space left on device (os error 28)"), run)
    assert "quota" in line(OSError(errno.EDQUOT, "Disk quota exceeded"), run)


def test_a_really_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        Path("/dev/full").write_text("x", encoding="utf-8")
    assert "a disk is full" in line(caught.value, fake_run(tmp_path))


@pytest.mark.parametrize("error", [ValueError("something of its own"), ConfigError("ours"), OSError(errno.EIO, "bad")])
def test_what_is_not_understood_keeps_its_own_words(tmp_path: Path, error: BaseException) -> None:
    assert explain_failure(error, fake_run(tmp_path, ranks=2)) is None


def interrupted() -> None:
    raise KeyboardInterrupt


def test_the_end_that_lightning_makes_of_an_interrupt_is_known() -> None:
    trainer = pl.Trainer(accelerator="cpu", barebones=True)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        _call_and_handle_interrupt(trainer, interrupted)
    signal.signal(signal.SIGINT, before)
    assert is_interrupt(caught.value)
    assert is_interrupt(KeyboardInterrupt())
    assert not is_interrupt(SystemExit(1))
    assert not is_interrupt(ValueError())
