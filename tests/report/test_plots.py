from __future__ import annotations

import re
from pathlib import Path

import av
import numpy as np
import pytest

from macedance.errors import ConfigError, DataError
from macedance.report.curves import read_training, read_validation
from macedance.report.plots import beat_plot, histograms, learning_curves

TRAINING = "step,train/loss,train/rec,train/foot,lr\n" + "".join(
    f"{step},{1 / step!r},{0.5 / step!r},{'' if step == 3 else repr(0.1 / step)},0.001\n" for step in range(1, 121)
)
VALIDATION = (
    "step,name,value\n10,val/loss,0.5\n10,val/bas,0.5\n10,val/bas_shuffled,0.4\n10,val/bas_reference,0.8\n"
    "10,val/jerk,200\n20,val/loss,0.4\n20,val/bas,0.6\n20,val/jerk,nan\n"
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "metrics.csv").write_text(TRAINING)
    (tmp_path / "metrics_val.csv").write_text(VALIDATION)
    return tmp_path


def words(svg: Path) -> str:
    """matplotlib writes each text of an SVG as a comment beside its outlines."""
    return " | ".join(re.findall(r"<!-- (.*?) -->", svg.read_text(encoding="utf-8")))


def size(png: Path) -> tuple[int, int]:
    with av.open(str(png)) as container:
        frame = next(container.decode(video=0))
    return frame.width, frame.height


def test_run_files_are_read_with_their_gaps(run: Path) -> None:
    training, validation = read_training(run / "metrics.csv"), read_validation(run / "metrics_val.csv")
    np.testing.assert_array_equal(training["train/loss"].values, 1 / np.arange(1, 121))
    assert list(training) == ["train/loss", "train/rec", "train/foot", "lr"]
    assert 3 not in training["train/foot"].steps
    assert len(training["train/foot"].steps) == 119
    np.testing.assert_array_equal(validation["val/bas"].steps, [10, 20])
    np.testing.assert_array_equal(validation["val/bas"].values, [0.5, 0.6])
    assert len(validation["val/jerk"].values) == 1


def test_learning_curves_show_loss_terms_and_validation_beside_its_references(run: Path) -> None:
    out = learning_curves(run / "metrics.csv", run / "curves.svg", validation_csv=run / "metrics_val.csv")
    shown = words(out)
    for text in (
        "loss",
        "terms of the training loss",
        "rec",
        "foot",
        "bas",
        "shuffled",
        "reference",
        "jerk",
        "validation",
    ):
        assert text in shown.split(" | "), text
    assert "lr" not in shown.split(" | ")
    some = words(
        learning_curves(run / "metrics.csv", run / "a.svg", validation_csv=run / "metrics_val.csv", names=["val/bas"])
    )
    assert "jerk" not in some.split(" | ")
    assert "bas" in some.split(" | ")


def test_learning_curves_without_validation_or_terms(run: Path) -> None:
    (run / "short.csv").write_text("step,train/loss\n1,0.5\n")
    small = size(learning_curves(run / "short.csv", run / "a.png", validation_csv=run / "none.csv"))
    large = size(learning_curves(run / "metrics.csv", run / "b.png", validation_csv=run / "metrics_val.csv"))
    assert large[0] > 1.8 * small[0]
    assert large[1] > 1.8 * small[1]


def test_the_same_numbers_give_the_same_file(run: Path) -> None:
    for name in ("curves.png", "curves.svg"):
        first, second = (learning_curves(run / "metrics.csv", run / name).read_bytes() for _ in "ab")
        assert first == second


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch,train/loss\n1,2\n", "no column step"),
        ("step,train/loss\n1,much\n", "'much' is no number.*line 2"),
        ("step,val/loss\n1,2\n", "no training loss"),
        ("step,train/loss\n", "no training loss"),
        ("", "no column step"),
    ],
)
def test_damaged_run_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        learning_curves(tmp_path / "metrics.csv", tmp_path / "out.png")
    assert "metrics.csv" in str(caught.value)
    assert not (tmp_path / "out.png").exists()


def test_other_suffix_and_missing_file_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        learning_curves(run / "metrics.csv", run / "curves.bmp")
    with pytest.raises(DataError, match="cannot be read"):
        learning_curves(run / "nowhere.csv", run / "curves.png")


def test_histograms_count_what_is_not_finite(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sets = {"generated": rng.normal(size=30), "reference": [*rng.normal(size=9), float("nan")]}
    shown = words(histograms({"jerk": sets, "empty": {"generated": []}}, tmp_path / "h.svg"))
    for text in ("jerk", "generated (n = 30)", "reference (n = 9, 1 not finite)", "generated (n = 0)"):
        assert text in shown
    with pytest.raises(DataError, match="no distributions"):
        histograms({}, tmp_path / "none.svg")


def test_beat_plot_marks_the_rests_and_gives_the_score(tmp_path: Path) -> None:
    fps, frames = 30.0, 150
    # Joints that rest twice a second, on the music's beats.
    phase = np.pi * 2.0 * (np.arange(frames) / fps)
    joints = np.zeros((frames, 24, 3))
    joints[..., 0] = np.sin(phase - np.pi / 2)[:, None]
    on = words(beat_plot(joints, fps, np.arange(0.5, 4.9, 0.5), tmp_path / "on.svg", title="house"))
    off = words(beat_plot(joints, fps, np.arange(0.75, 4.9, 0.5), tmp_path / "off.svg", title="house"))
    score = {
        name: float(re.findall(r"house · alignment ([\d.]+)", text)[0]) for name, text in (("on", on), ("off", off))
    }
    assert score["on"] > 0.9
    assert score["off"] < 0.2
    assert "motion beats" in on
    silent = words(beat_plot(joints, fps, np.zeros(0), tmp_path / "silent.svg", title="house"))
    assert "alignment" not in silent
    with pytest.raises(DataError, match="frames"):
        beat_plot(joints[:1], fps, np.zeros(0), tmp_path / "short.svg")


def test_plots_leave_matplotlib_as_it_was(run: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    learning_curves(run / "metrics.csv", run / "curves.png")
    assert dict(matplotlib.rcParams) == before
