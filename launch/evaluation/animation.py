"""``macedance evaluate animation``: a folder of generated videos against the true ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.evaluation.output import check_outputs, hand_over
from launch.options import Parser, add_json_option, positive_int
from macedance.errors import ConfigError, DataError

if TYPE_CHECKING:
    from macedance.metrics.animation.bundle import Judges
    from macedance.metrics.protocol_result import ProtocolResult
    from macedance.report.page import Page
    from macedance.vision.video import VideoFolder

PRESETS = ("styleganv", "center_crop")
SETS = ("generated", "reference")
NATIVE = "native"

_EPILOG = """\
Videos of one name are a pair. SSIM, PSNR and LPIPS compare the frames of each pair; FVD and KVD the two sets. FVD
needs as many clips as I3D has features, 400; windows of one clip are alike and do not stand in for clips. With fewer
read KVD, which has no bias, or take FVD with --allow-small-n for what it is: mostly noise.

examples:
  macedance evaluate animation --generated videos/ours --reference videos/true --json out/animation.json --out out/page
  macedance evaluate animation --generated videos/ours --reference videos/true --preset styleganv --allow-small-n
  macedance evaluate animation --generated videos/ours --reference videos/others --unpaired

Networks: `macedance evaluate weights`. Conventions: docs/evaluation.md"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``evaluate animation``."""
    parser = Parser(
        prog="macedance evaluate animation",
        description="Judge videos by the true ones: FVD, KVD, SSIM, PSNR, LPIPS.",
        epilog=_EPILOG,
    )
    parser.add_argument("--generated", required=True, metavar="DIR", help="the videos to judge")
    parser.add_argument("--reference", required=True, metavar="DIR", help="the true videos")
    parser.add_argument(
        "--preset",
        nargs="+",
        default=list(PRESETS),
        metavar="NAME",
        help=f"conventions of FVD: some of {', '.join(PRESETS)} (default both)",
    )
    parser.add_argument(
        "--unpaired", action="store_true", help="compare the two sets only: FVD and KVD, names may differ"
    )
    parser.add_argument(
        "--skip-frames",
        type=int,
        default=1,
        metavar="N",
        help="first frames of each clip that SSIM, PSNR and LPIPS leave out (default 1: the reference picture)",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("W", "H"),
        help="bring both videos of a pair to W x H pixels for SSIM, PSNR and LPIPS (default: they must have one size)",
    )
    parser.add_argument(
        "--cut-to-shorter", action="store_true", help="of pairs of different lengths compare the common first frames"
    )
    parser.add_argument(
        "--ssim",
        choices=("cropped", "padded"),
        default="cropped",
        help="cropped: as scikit-image and most papers (default); padded: as torchmetrics",
    )
    parser.add_argument("--lpips", choices=("alex", "vgg"), default="alex", help="network of LPIPS (default alex)")
    parser.add_argument(
        "--window-frames", type=int, default=16, metavar="N", help="frames of a window of FVD (default 16)"
    )
    parser.add_argument(
        "--window-fps",
        default="16",
        metavar="FPS",
        help="frame rate of a window, reached by leaving frames out (default 16), or `native`: consecutive frames",
    )
    parser.add_argument(
        "--windows-per-clip",
        type=int,
        default=1,
        metavar="N",
        help="windows drawn from each clip (default 1); more show more of long clips, but are no more clips",
    )
    parser.add_argument("--i3d", metavar="FILE", help="weights of I3D (default: those of `evaluate weights`)")
    parser.add_argument(
        "--i3d-torchscript", metavar="FILE", help="StyleGAN-V's TorchScript in place of I3D; needs --i3d-sha256"
    )
    parser.add_argument("--i3d-sha256", metavar="HEX", help="sha256 of a TorchScript that you trust: it is a program")
    parser.add_argument("--lpips-weights", metavar="FILE", help="ImageNet weights of LPIPS's network")
    parser.add_argument("--weights", metavar="DIR", help="folder of the networks' weights (see evaluate weights)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--max-clips", type=int, metavar="N", help="judge at most N of each folder, drawn by the seed")
    parser.add_argument(
        "--leave-out-bad", action="store_true", help="leave out videos that cannot be used, listed, with their pairs"
    )
    parser.add_argument("--allow-small-n", action="store_true", help="give FVD of fewer clips than features too")
    parser.add_argument("--resamples", type=int, metavar="N", help="of the 95%% intervals (default 1000; 0: none)")
    parser.add_argument("--floor-draws", type=int, metavar="N", help="of the floor (default 20; 0: none)")
    parser.add_argument("--seed", type=int, default=0, help="of windows, intervals, floors, --max-clips (default 0)")
    parser.add_argument("--out", metavar="DIR", help="folder for index.html and its plots")
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        ConfigError: An impossible option.
        DataError: Folders that cannot be judged; every file at fault is named.
        CheckpointError: Weights that are damaged or not the ones that were named.
    """
    options = build_parser().parse_args(arguments)
    _check_options(options)
    result = evaluate(options)
    hand_over(
        result,
        json=options.json,
        out=options.out,
        title="Videos against the true ones",
        subtitle=f"{options.generated} against {options.reference}",
        command=["evaluate", "animation", *arguments],
        after=lambda page: _show_extremes(page, result, options),
    )
    return 0


def evaluate(options: argparse.Namespace) -> ProtocolResult:
    """Judge the two folders of the options; see build_parser.

    Raises:
        DataError: As main.
        CheckpointError: As main.
    """
    from launch.devices import pick_device
    from macedance.metrics.animation.bundle import AnimationMetrics
    from macedance.metrics.animation.evaluation import evaluate_animation
    from macedance.metrics.animation.presets import presets_named
    from macedance.metrics.animation.video_sets import Reporting
    from macedance.metrics.animation.windows import WindowSampling
    from macedance.metrics.statistics import FLOOR_DRAWS, MEAN_RESAMPLES
    from macedance.report.progress import Progress

    device = pick_device(options.device)
    folders, left_out, notes = _read(options)
    metrics = AnimationMetrics(
        _judges(options),
        presets=presets_named(options.preset),
        sampling=WindowSampling(
            frames=options.window_frames,
            fps=_window_fps(options.window_fps),
            per_clip=options.windows_per_clip,
            seed=options.seed,
        ),
        reporting=Reporting(
            allow_small_n=options.allow_small_n,
            resamples=MEAN_RESAMPLES if options.resamples is None else options.resamples,
            floor_draws=FLOOR_DRAWS if options.floor_draws is None else options.floor_draws,
            seed=options.seed,
        ),
        skip_frames=options.skip_frames,
        padded=options.ssim == "padded",
        size=None if options.size is None else tuple(options.size),
    ).to(device)
    with Progress("watching videos", 1) as bar:
        result = evaluate_animation(
            folders["generated"].videos,
            folders["reference"].videos,
            metrics,
            paired=not options.unpaired,
            cut_to_shorter=options.cut_to_shorter,
            leave_out_bad=options.leave_out_bad,
            left_out=left_out,
            progress=bar,
        )
    return result.with_notes({"inputs": notes}) if notes else result


def _check_options(options: argparse.Namespace) -> None:
    unknown = [name for name in options.preset if name not in PRESETS]
    if unknown:
        raise ConfigError(f"--preset {', '.join(unknown)}: unknown", expected=f"some of {', '.join(PRESETS)}")
    for name in ("max_clips", "window_frames", "windows_per_clip"):
        positive_int(f"--{name.replace('_', '-')}", getattr(options, name))
    for name in ("resamples", "floor_draws", "seed", "skip_frames"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}", expected="0 or more")
    _window_fps(options.window_fps)
    if options.size is not None and min(options.size) < 16:
        raise ConfigError(f"--size is {options.size[0]} {options.size[1]}", expected="sides of at least 16 pixels")
    if bool(options.i3d_torchscript) != bool(options.i3d_sha256):
        raise ConfigError("--i3d-torchscript and --i3d-sha256 go together", expected="both: a TorchScript is a program")
    if options.i3d and options.i3d_torchscript:
        raise ConfigError("--i3d and --i3d-torchscript: two networks for one FVD", expected="one of them")
    if options.unpaired and (options.size or options.cut_to_shorter):
        raise ConfigError("--size and --cut-to-shorter are of pairs", fix="leave them or --unpaired out")
    check_outputs(options.json, options.out)


def _window_fps(text: str) -> float | None:
    if text == NATIVE:
        return None
    try:
        fps = float(text)
    except ValueError:
        fps = 0.0
    if not 0 < fps < 1000:
        raise ConfigError(f"--window-fps is {text}", expected=f"a number above 0, or {NATIVE}")
    return fps


def _judges(options: argparse.Namespace) -> Judges:
    from macedance.metrics.animation.bundle import find_judges
    from macedance.vision.perceptual import ALEX, VGG

    return find_judges(
        options.weights,
        i3d=options.i3d,
        torchscript=options.i3d_torchscript,
        sha256=options.i3d_sha256 or "",
        trunk=VGG if options.lpips == "vgg" else ALEX,
        lpips=options.lpips_weights,
    )


def _read(options: argparse.Namespace) -> tuple[dict[str, VideoFolder], dict[str, dict[str, str]], list[str]]:
    """Both folders, what was left out of them, and what a reader must know of that."""
    from dataclasses import replace

    from macedance.vision.video import read_videos

    folders: dict[str, VideoFolder] = {}
    errors: list[DataError] = []
    for which in SETS:
        try:
            folders[which] = read_videos(getattr(options, which), leave_out_bad=options.leave_out_bad)
        except DataError as error:
            errors.append(error)
    if len(errors) > 1:
        raise DataError("; ".join(f"{which}: {error}" for which, error in zip(SETS, errors, strict=True)))
    if errors:
        raise errors[0]
    left_out = {which: dict(folder.left_out) for which, folder in folders.items()}
    notes = [
        f"files of the {which} folder that are no videos: {', '.join(folder.ignored)}"
        for which, folder in folders.items()
        if folder.ignored
    ]
    if not options.unpaired:
        _leave_out_partners(folders, left_out)
    if options.max_clips is not None:
        chosen = _chosen(folders, options)
        for which in SETS:
            videos = [video for video in folders[which].videos if video.name in chosen[which]]
            if len(videos) < len(folders[which].videos):
                notes.append(f"{len(videos)} of {len(folders[which].videos)} {which} videos were drawn (--max-clips)")
            folders[which] = replace(folders[which], videos=videos)
    return folders, left_out, notes


def _leave_out_partners(folders: dict[str, VideoFolder], left_out: dict[str, dict[str, str]]) -> None:
    """Videos whose partner could not be opened, and was left out on request, go with it."""
    from dataclasses import replace

    for which, other in zip(SETS, SETS[::-1], strict=True):
        gone = {Path(name).stem for name in folders[other].left_out}
        videos = [video for video in folders[which].videos if video.name not in gone]
        for video in folders[which].videos:
            if video.name in gone and video.path is not None:
                left_out[which][video.path.name] = f"the {other} video of its name was left out"
        if not videos:
            raise DataError("no video whose partner can be opened", where=folders[which].path)
        folders[which] = replace(folders[which], videos=videos)


def _chosen(folders: dict[str, VideoFolder], options: argparse.Namespace) -> dict[str, set[str]]:
    """Names drawn by the seed; of videos in pairs the same ones in both sets, so that unmatched ones still show."""
    import numpy as np

    names = {which: sorted(video.name for video in folder.videos) for which, folder in folders.items()}
    paired = not options.unpaired and names["generated"] == names["reference"]
    generator = np.random.default_rng(options.seed)
    drawn = {which: generator.permutation(len(of))[: options.max_clips] for which, of in names.items()}
    if paired:
        drawn["reference"] = drawn["generated"]
    elif not options.unpaired:
        # Names that do not match are refused later, all listed: nothing is drawn of them.
        return {which: set(of) for which, of in names.items()}
    return {which: {names[which][k] for k in rows} for which, rows in drawn.items()}


def _show_extremes(page: Page, result: ProtocolResult, options: argparse.Namespace) -> None:
    """The pairs of the lowest and the highest structural similarity, side by side."""
    values = next(iter(result.per_clip.values()), {}).get("ssim", {})
    ordered = sorted((name for name, value in values.items() if value == value), key=values.__getitem__)
    if not ordered:
        return
    page.add_heading("Pairs to look at")
    for label, name in (("lowest", ordered[0]), ("highest", ordered[-1]))[: len(ordered)]:
        shown = [_playable(Path(getattr(options, which)), name) for which in SETS]
        if all(shown):
            page.add_text(f"The pair of the {label} structural similarity, {values[name]:.3f}: {name}.")
            for which, found in zip(SETS, shown, strict=True):
                page.add_video(found[0], f"{name}, {which}")


def _playable(folder: Path, name: str) -> list[Path]:
    """The video of a name, where it is of a kind that browsers play."""
    return [path for path in folder.iterdir() if path.stem == name and path.suffix.lower() in (".mp4", ".webm")]
