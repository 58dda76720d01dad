"""What the callbacks that judge dances share: when they are due, whose clips are whose, one error for all ranks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks.agreement import agreed_evaluation
from callbacks.motion_protocol import MotionProtocol
from callbacks.previews import share_of, spread
from callbacks.protocol_results import gathered, named_values
from callbacks.samples import SampleVideos
from macedance.errors import ConfigError, DataError, MaceDanceError, NumericsError
from macedance.metrics.gathered import GatheredMetric
from macedance.metrics.protocol import ProtocolResult


@pytest.mark.parametrize("count", [0, 1, 5, 8, 13])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_shares_are_runs_that_cover_everything_once(count: int, ranks: int) -> None:
    shares = [share_of(count, rank, ranks) for rank in range(ranks)]
    assert [i for share in shares for i in share] == list(range(count))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True), "the first rank, whose progress is shown, has one of the largest"


def test_clips_are_spread_over_the_split() -> None:
    numbers = [10, 11, 12, 13, 14, 15, 16]
    assert spread(numbers, None) == numbers
    assert spread(numbers, 100) == numbers
    assert spread(numbers, 3) == [10, 12, 14]
    assert spread(numbers, 1) == [10]
    assert spread([], 3) == []


class _Corpus:
    """Nine samples an epoch, in batches of three."""

    global_batch_size = 3

    def epoch_of(self, position: int) -> int:
        return position // 9


@pytest.mark.parametrize(
    ("settings", "due"),
    [
        ({"every_n_steps": 2}, [2, 4, 6, 8, 10, 12]),
        ({"every_n_epochs": 1}, [3, 6, 9, 12]),
        ({"every_n_epochs": 2}, [6, 12]),
        ({"every_n_steps": 5, "every_n_epochs": 2}, [5, 6, 10, 12]),
        ({}, []),
    ],
)
def test_epochs_are_those_of_the_data(settings: dict[str, int], due: list[int]) -> None:
    protocol = MotionProtocol(**settings)
    steps = range(1, 13)
    trainer = [SimpleNamespace(global_step=step, datamodule=_Corpus()) for step in steps]
    module = [SimpleNamespace(position=3 * step) for step in steps]
    assert [s for s, t, m in zip(steps, trainer, module, strict=True) if protocol.is_due(t, m)] == due  # type: ignore[arg-type]


def test_the_default_is_every_thousand_steps() -> None:
    assert MotionProtocol().is_due(SimpleNamespace(global_step=1000), SimpleNamespace(position=0))  # type: ignore[arg-type]
    assert MotionProtocol(every_n_epochs=1).every_n_steps is None


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: MotionProtocol(every_n_steps=0), "every_n_steps is 0"),
        (lambda: MotionProtocol(every_n_epochs=-1), "every_n_epochs is -1"),
        (lambda: MotionProtocol(max_clips=0), "max_clips is 0"),
        (lambda: MotionProtocol(presets=["mace2d"]), "mace2d"),
        (lambda: MotionProtocol(presets=["cleaner"]), "unknown"),
        (lambda: MotionProtocol(resamples=-1), "resamples"),
        (lambda: SampleVideos(num_videos=0), "num_videos is 0"),
    ],
)
def test_settings_are_checked_before_training(make: type, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        make()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (DataError("a hole", where="clip-3", expected="music", fix="mend"), DataError, "a hole at clip-3"),
        (NumericsError("NaN at step 3"), NumericsError, "NaN at step 3"),
        (RuntimeError("out of\n memory"), MaceDanceError, "RuntimeError: out of memory"),
        (OSError(28, "No space left on device"), MaceDanceError, "No space left"),
    ],
)
def test_an_error_keeps_its_kind_and_says_what_was_done(error: Exception, kind: type, words: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(MaceDanceError) as caught:
        agreed_evaluation("dancing", fail, where=Path("protocol/step-1.json"))
    assert type(caught.value) is kind
    assert "the evaluation failed: dancing" in str(caught.value)
    assert words in str(caught.value)
    assert "protocol/step-1.json" in str(caught.value)
    assert caught.value.__cause__ is error
    assert agreed_evaluation("dancing", lambda: 3, where=Path()) == 3


def test_values_are_named_by_their_preset_and_refused_ones_are_none() -> None:
    result = ProtocolResult(
        {
            "clean": {"a": {"value": 1.0}, "b": {"value": None}},
            "other": {"a": {"value": 2}},
            "file": {"a": {"value": 3}},
        },
        {},
        {},
        {},
    )
    assert named_values(result, {"other": "val/other/", "file": None}) == {"val/a": 1.0, "val/other/a": 2.0}


def test_a_gathered_metric_is_a_copy_that_stands_alone() -> None:
    class Rows(GatheredMetric):
        def __init__(self) -> None:
            super().__init__()
            self.add_rows("seen", dtype=torch.float64)

        def update(self, value: float) -> None:
            self.append_rows("seen", torch.tensor([value]))

        def compute(self) -> float:
            return float(self.rows_of("seen").sum())

    metric = Rows()
    metric.update(2.0)
    whole = gathered(metric)
    metric.update(5.0)
    assert whole.compute() == 2.0
    assert metric.compute() == 7.0
    assert not whole.sync_on_compute, "computed by one rank, it must wait for none"
