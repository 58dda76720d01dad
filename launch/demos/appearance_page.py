"""The page of the Appearance Expert's demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.demos.appearance_training import ABLATION, SHIFTED_NAMES, STAGE_STEPS, kinematic_steps
from launch.demos.bounds import add_bounds, add_numbers
from macedance.report.page import Page
from macedance.report.progress import format_seconds

Numbers = Mapping[str, Mapping[str, Any]]
_EXPLAINED: tuple[tuple[str, str], ...] = (
    ("psnr_mask", "held-out clips against the true ones, over the dilated person, dB"),
    ("psnr", "the same over whole frames"),
    ("psnr_mask_untrained", "of the same network before its first step"),
    ("psnr_mask_repeat_reference", "of the reference picture as every frame"),
    ("psnr_mask_wrong_pose", "driven by another clip's pose: what does not come from the pose"),
    ("vae_psnr", "the autoencoder alone: as good as it gets"),
    ("vae_psnr_mask", "the same over the dilated person"),
    ("val_loss", "flow-matching loss on validation clips"),
)
_NAMES = {
    "zero_shot": "before: trained on the first corpus only",
    "wo_kinematic": f"without kinematic: {STAGE_STEPS} steps of the aesthetic stage",
    "wo_aesthetic": f"without aesthetic: {STAGE_STEPS} steps of the kinematic stage",
    "all": f"all: {kinematic_steps(STAGE_STEPS)} steps of the first, then {STAGE_STEPS - kinematic_steps(STAGE_STEPS)} "
    "of the second",
}
_JUDGED = ("ssim", "psnr", "lpips", "fvd", "kvd")


def write_page(
    out: Path,
    numbers: Numbers,
    animation: Mapping[str, Numbers],
    bounds: Sequence[Mapping[str, Any]],
    videos: Sequence[Path],
    seconds: Mapping[str, float],
) -> Path:
    """``index.html``: the videos, the bounds, the numbers, the ablation and the learning curves."""
    from macedance.report.plots import learning_curves

    page = Page(
        "MACE-Dance: the Appearance Expert's demo",
        f"Trained from nothing in {format_seconds(sum(seconds.values()))} on this machine.",
    )
    dance, held_out, shifted = videos
    page.add_heading("One picture dances")
    page.add_video(dance, "A dance to a song, and one picture of a person it has never seen: segments of nine frames.")
    page.add_heading("Held-out clips")
    page.add_video(held_out, "Left to right: the reference, the pose drawing, ours, the true clip.")
    page.add_heading("The two stages on another domain")
    models = ", ".join(_NAMES[name] for name in ABLATION)
    page.add_video(shifted, f"Left to right: the reference, {models}, the true clip.")
    add_bounds(page, bounds)
    add_numbers(page, numbers, _EXPLAINED)
    page.add_heading("Ablation")
    page.add_table(
        ("model", "PSNR, person", "PSNR", "loss", *(key.upper() for key in _JUDGED)),
        [_ablation_row(name, numbers, animation[name]) for name in ABLATION],
        "Equal steps on the second corpus; the last columns are those of `macedance evaluate animation`.",
    )
    page.add_heading("Learning curves")
    for run, caption in (("vae", "The autoencoder."), ("full", "The Appearance Expert, from nothing.")):
        folder = out / "runs" / run
        plot = out / "videos" / f"{run}.png"
        page.add_image(
            learning_curves(folder / "metrics.csv", plot, validation_csv=folder / "metrics_val.csv"), caption
        )
    page.add_heading("Where they come from")
    page.add_facts({f"{name} took": format_seconds(value) for name, value in seconds.items()})
    page.add_code(f"macedance demo appearance --out {out}")
    return page.write(out / "index.html")


def _ablation_row(name: str, numbers: Numbers, judged: Numbers) -> tuple[Any, ...]:
    ours = [numbers[f"{key}_shifted_{SHIFTED_NAMES[name]}"]["value"] for key in ("psnr_mask", "psnr", "val_loss")]
    return (_NAMES[name], *ours, *(judged.get(key, {}).get("value") for key in _JUDGED))
