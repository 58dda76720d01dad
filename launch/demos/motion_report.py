"""The page of the Motion Expert's demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.demos.bounds import add_bounds, add_numbers
from macedance.report.progress import format_seconds

if TYPE_CHECKING:
    from datamodules.motion import MotionDataModule

#: Order and wording of the page's table.
_EXPLAINED: tuple[tuple[str, str], ...] = (
    ("bas", "beat alignment of the generated dances (music to motion)"),
    ("bas_shuffled", "the same dances against other songs' beats: the level of chance"),
    ("bas_reference", "beat alignment of the held-out dances"),
    ("bas_reference_shuffled", "theirs against other songs' beats"),
    ("fid_k", "Fréchet distance of kinetic features, generated to held-out dances"),
    ("fid_k_untrained", "of the same network before its first step"),
    ("fid_k_still", "of the mean pose held still"),
    ("fid_k_floor", "of as many real dances from elsewhere in the corpus: as good as it gets"),
    ("fid_g", "Fréchet distance of geometric features"),
    ("div_k", "diversity of kinetic features, generated"),
    ("div_k_reference", "diversity of kinetic features, held-out"),
    ("foot_skating", "share of contact frames in which a foot slides, generated"),
    ("foot_skating_reference", "the same, held-out"),
    ("jerk", "mean jerk, m/s³, generated"),
    ("jerk_reference", "mean jerk, m/s³, held-out"),
    ("frames_per_second", "frames of dance generated per second on this machine"),
)


def write_page(
    out: Path,
    run_dir: Path,
    numbers: Mapping[str, Mapping[str, Any]],
    bounds: Sequence[Mapping[str, Any]],
    videos: Sequence[Path],
    data: MotionDataModule,
    seconds: Mapping[str, float],
) -> Path:
    """``index.html``: the videos, the learning curves, the numbers and where they come from."""
    from macedance.motion.files import load_motion
    from macedance.report.page import Page
    from macedance.report.plots import beat_plot, learning_curves

    plots = out / "plots"
    plots.mkdir(exist_ok=True)
    page = Page(
        "MACE-Dance: the Motion Expert's demo",
        f"Trained on the built-in corpus for {format_seconds(seconds.get('training', 0.0))} on this machine.",
    )
    page.add_heading("It dances to a song it never heard")
    motions = [load_motion(video.with_suffix(".npz")) for video in videos]
    for video, motion in zip(videos, motions, strict=True):
        page.add_video(video, f"{motion.genre}, seed {video.stem.rpartition('-')[2]}")
    page.add_text("The song and its genres are the corpus's, the song itself is not. Turn the sound on.")
    first = motions[0]
    if first.music_beats_s is not None and len(first.music_beats_s):
        cut = first.slice(0, min(first.num_frames, int(8 * first.fps)))
        beats = first.music_beats_s[first.music_beats_s < cut.duration_s]
        page.add_image(
            beat_plot(
                cut.joint_positions(), cut.fps, beats, plots / "beats.png", title=f"{first.genre}, first seconds"
            ),
            "Speed of the first dance: it comes to rest where the music beats.",
        )
    add_bounds(page, bounds)
    add_numbers(page, numbers, _EXPLAINED, "Conventions: the clean preset, in seconds and metres, on the test split.")
    page.add_heading("Learning curves")
    curves = learning_curves(run_dir / "metrics.csv", plots / "curves.png", validation_csv=run_dir / "metrics_val.csv")
    page.add_image(curves, "Training loss and validation, by optimizer step.")
    page.add_heading("Where they come from")
    splits = data.manifest.splits
    page.add_facts(
        {
            "genres": len(data.genres),
            **{f"{name} clips": split.samples for name, split in splits.items()},
            **{f"{name} took": format_seconds(value) for name, value in seconds.items()},
        }
    )
    page.add_code(
        f"macedance demo --out {out}\nmacedance generate --music SONG --model {out / 'model'} --out outputs/dance"
    )
    return page.write(out / "index.html")
