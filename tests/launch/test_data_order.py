"""`macedance data order`: the keys of a rank, by the code that trains."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules.motion import MotionDataModule
from datamodules.streams.mixture import MixtureSource
from launch.main import main

BATCH = 4


def keys_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    capsys.readouterr()
    assert main(["data", "order", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def trained_on(data: MotionDataModule, rank: int, ranks: int, steps: int, start: int = 0) -> list[str]:
    data.start_position = start
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank,
        world_size=ranks,
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return [key for batch in islice(iter(data.train_dataloader()), steps) for key in batch["keys"]]


@pytest.mark.parametrize(("ranks", "rank"), [(1, 0), (2, 0), (2, 1), (4, 3)])
def test_it_prints_what_training_reads(
    tiny_corpus: Path, capsys: pytest.CaptureFixture[str], ranks: int, rank: int
) -> None:
    data = MotionDataModule(str(tiny_corpus), global_batch_size=BATCH)
    steps = data.samples_per_epoch // BATCH
    options = ("--shards", tiny_corpus, "--global-batch", BATCH, "--world-size", ranks, "--rank", rank)
    for epoch in (0, 1):
        start = epoch * data.samples_per_epoch
        assert keys_of(capsys, *options, "--epoch", epoch) == trained_on(data, rank, ranks, steps, start)
    assert keys_of(capsys, *options, "--start", 4, "--count", 9 * BATCH // ranks) == trained_on(data, rank, ranks, 9, 4)
    seeded = MotionDataModule(str(tiny_corpus), global_batch_size=BATCH, seed=5, shuffle_window=3)
    assert keys_of(capsys, *options, "--seed", 5, "--shuffle-window", 3) == trained_on(seeded, rank, ranks, steps)


@pytest.mark.parametrize("start", [0, 4, 6])
def test_the_ranks_together_print_the_rest_of_the_epoch(
    tiny_corpus: Path, capsys: pytest.CaptureFixture[str], start: int
) -> None:
    options = ("--shards", tiny_corpus, "--global-batch", BATCH, "--epoch", 2)
    whole = keys_of(capsys, *options, "--world-size", 1, "--rank", 0)
    assert len(whole) == len(set(whole))
    parts = [keys_of(capsys, *options, "--world-size", 2, "--rank", rank, "--start", start) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(whole[start:])
    ordered = [key for first in range(0, len(parts[0]), 2) for part in parts for key in part[first : first + 2]]
    assert ordered == whole[start:]
    assert keys_of(capsys, *options, "--world-size", 1, "--rank", 0, "--start", len(whole)) == []


def test_a_mixture(tiny_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [MixtureSource(str(tiny_corpus), 2), MixtureSource(str(tiny_corpus / "val"), 1)]
    data = MotionDataModule(mixture=sources, global_batch_size=BATCH)
    found = keys_of(
        capsys, "--shards", tiny_corpus, tiny_corpus / "val", "--weights", 2, 1,
        "--global-batch", BATCH, "--world-size", 2, "--rank", 1, "--count", 20,
    )  # fmt: skip
    assert found == trained_on(data, 1, 2, 10)


def test_json(tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--shards", tiny_corpus, "--global-batch", BATCH, "--world-size", 1, "--rank", 0)
    keys = keys_of(capsys, *options, "--json", tmp_path / "order.json")
    written = json.loads((tmp_path / "order.json").read_text())
    assert written["keys"] == keys
    assert written["samples_per_epoch"] == len(keys)
    assert json.loads("\n".join(keys_of(capsys, *options, "--json"))) == written


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"--global-batch": 5, "--world-size": 2}, "not divisible by 2 ranks"),
        ({"--global-batch": 0}, "--global-batch is 0"),
        ({"--global-batch": "many"}, "--global-batch"),
        ({"--global-batch": 1000}, "fewer than one global batch of 1000"),
        ({"--world-size": 0}, "--world-size is 0"),
        ({"--world-size": 500, "--global-batch": 500}, "500 ranks and"),
        ({"--rank": 1}, "--rank is 1"),
        ({"--rank": -1}, "--rank is -1"),
        ({"--epoch": -1}, "--epoch is -1"),
        ({"--start": -1}, "--start is -1"),
        ({"--start": 1000}, "beyond the epoch"),
        ({"--count": -1}, "--count is -1"),
        ({"--seed": -1}, "--seed is -1"),
        ({"--shuffle-window": 0}, "shuffle_window 0"),
        ({"--shards": "/no/such/corpus"}, "/no/such/corpus"),
        ({"--shards": "http://127.0.0.1:1/c?key=hush"}, "http://127.0.0.1:1/c"),
    ],
)
def test_a_bad_value_is_one_line(
    tiny_corpus: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    expected: str,
) -> None:
    monkeypatch.setattr("datamodules.streams.transport.Patience.pause", lambda *_: None)
    options: dict[str, object] = {
        "--shards": tiny_corpus, "--global-batch": BATCH, "--world-size": 1, "--rank": 0, **change,
    }  # fmt: skip
    assert main(["data", "order", *(str(word) for pair in options.items() for word in pair)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert "hush" not in captured.err


def test_weights_without_their_sources(tiny_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--shards", str(tiny_corpus), "--weights", "2", "5"]
    assert main(["data", "order", *words, "--global-batch", "4", "--world-size", "1", "--rank", "0"]) == 2
    assert "2 --weights for 1 --shards" in capsys.readouterr().err


def test_it_needs_no_torch(tiny_corpus: Path) -> None:
    code = (
        "import sys; from launch.main import main;"
        f"words = ['--shards', {str(tiny_corpus)!r}, '--global-batch', '4', '--world-size', '1', '--rank', '0'];"
        "code = main(['data', 'order', *words]);"
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0
    assert run.stderr == ""
    assert run.stdout.splitlines()
