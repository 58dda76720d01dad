"""``macedance evaluate video``: a folder of videos by themselves."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from launch.evaluation.output import check_outputs, hand_over
from launch.evaluation.video_inputs import (
    AUTO,
    NONE,
    VideoSets,
    find_keypoints,
    read_driving,
    read_references,
    read_sets,
    say_left_out,
)
from launch.keypoint_sources import KEYPOINT_SOURCES
from launch.options import Parser, add_json_option, positive_int
from macedance.errors import ConfigError

if TYPE_CHECKING:
    from macedance.metrics.protocol_result import ProtocolResult
    from macedance.metrics.video_protocol import VideoPreset
    from macedance.report.page import Page

PRESETS = ("vbench", "honest")
_PLAYABLE = (".mp4", ".webm", ".mov")
_MOST_PLAYERS = 8

_EPILOG = """\
vbench: the six dimensions that papers print, times 100. Several rise where less moves, and with the frame rate; so the
preset honest stands beside them: how much the person moves, what changes beside that motion, and whether body, face and
pose are those asked for. Numbers whose networks are not on this machine are left out, with the reason.

examples:
  macedance evaluate video --generated outputs/videos --json outputs/video.json --out outputs/video
  macedance evaluate video --generated ours --reference true --reference-images photos --driving keypoints
  macedance evaluate weights --download dino_vitb16 clip_vit_b32 clip_vit_l14 aesthetic_head musiq_spaq

Conventions, and what can be compared with what: docs/evaluation.md"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``evaluate video``."""
    parser = Parser(
        prog="macedance evaluate video",
        description="Judge videos by themselves: VBench's six dimensions, and what keeps them honest.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--generated", required=True, metavar="DIR", help="the videos to judge: mp4, mov, webm, gif, ..."
    )
    parser.add_argument("--reference", metavar="DIR", help="videos that are judged likewise, for comparison")
    parser.add_argument(
        "--preset",
        nargs="+",
        default=list(PRESETS),
        metavar="NAME",
        help=f"some of {', '.join(PRESETS)} (default both)",
    )
    parser.add_argument(
        "--keypoints",
        choices=(AUTO, *KEYPOINT_SOURCES, NONE),
        default=AUTO,
        help="what finds the dancer (default auto: ViTPose or else BlazePose, where their weights are)",
    )
    parser.add_argument(
        "--reference-images",
        metavar="DIR",
        help="pictures of the person, one for each video's name (default: identity against each video's first frame)",
    )
    parser.add_argument(
        "--driving",
        metavar="DIR",
        help="where the dancer should be: an .npz with keypoints (T, K, 3) in the video's pixels for each video's name",
    )
    parser.add_argument(
        "--amt", metavar="DIR", help="your checkout of MCG-NKU/AMT, whose code is run: motion smoothness"
    )
    parser.add_argument(
        "--amt-scale", type=float, default=1.0, metavar="S", help="of the pictures AMT finds flow on (default 1)"
    )
    parser.add_argument(
        "--averaging",
        choices=("video", "published"),
        default="video",
        help="video: over videos (default); published: VBench's two consistencies over all frames of all videos",
    )
    parser.add_argument("--match", action="store_true", help="refuse names that only one of the two folders has")
    parser.add_argument(
        "--allow-mixed", action="store_true", help="judge videos of several frame rates or sizes together, with a note"
    )
    parser.add_argument("--max-clips", type=int, metavar="N", help="judge at most N of each folder, drawn by the seed")
    parser.add_argument(
        "--leave-out-bad", action="store_true", help="leave out videos that cannot be used, listed, instead of stopping"
    )
    parser.add_argument("--resamples", type=int, metavar="N", help="of the 95%% intervals (default 1000; 0: none)")
    parser.add_argument("--seed", type=int, default=0, help="of intervals and --max-clips (default 0)")
    parser.add_argument("--weights", metavar="DIR", help="folder of the networks' weights (see evaluate weights)")
    parser.add_argument("--device", help="cpu, cuda, ... for the networks (default: a GPU where there is one)")
    parser.add_argument("--out", metavar="DIR", help="folder for index.html and its plots")
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        ConfigError: An impossible option.
        DataError: Folders that cannot be judged; every file at fault is named.
        CheckpointError: Weights that are there and are not the published ones.
    """
    options = build_parser().parse_args(arguments)
    _check_options(options)
    sets = read_sets(options)
    result = evaluate(options, sets)
    hand_over(
        result,
        json=options.json,
        out=options.out,
        title="Videos",
        subtitle=options.generated + (f" beside {options.reference}" if options.reference else ""),
        command=["evaluate", "video", *arguments],
        after=lambda page: _add_players(page, sets, result),
    )
    return 0


def evaluate(options: argparse.Namespace, sets: VideoSets) -> ProtocolResult:
    """Judge the videos that were read.

    Raises:
        As main.
    """
    from launch.devices import pick_device
    from macedance.metrics.honest.preset import stillness_notes
    from macedance.metrics.statistics import MEAN_RESAMPLES
    from macedance.metrics.video_protocol import evaluate_videos
    from macedance.report.progress import Progress

    device = pick_device(options.device)
    resamples = MEAN_RESAMPLES if options.resamples is None else options.resamples
    ours, theirs = _presets(options, sets, device, resamples=resamples, seed=options.seed)
    settings = {"presets": [preset.name for preset in ours], "resamples": resamples, "seed": options.seed}
    with Progress("watching videos", len(sets.generated) + len(sets.reference)) as bar:
        result = evaluate_videos(
            ours,
            sets.generated,
            reference=sets.reference,
            reference_presets=theirs,
            settings=settings,
            leave_out_bad=options.leave_out_bad,
            left_out=sets.left_out,
            progress=bar,
        )
    say_left_out(result.inputs["left_out"], known=sets.left_out)
    notes = {"inputs": sets.notes} if sets.notes else {}
    still = stillness_notes(result)
    return result.with_notes(notes | ({"vbench" if "vbench" in result.presets else "honest": still} if still else {}))


def _presets(
    options: argparse.Namespace, sets: VideoSets, device: str, **reporting: Any
) -> tuple[list[VideoPreset], list[VideoPreset]]:
    """The presets for the generated videos and those for the reference, which nobody drove."""
    from macedance.metrics.appearance.vbench import vbench_preset
    from macedance.metrics.honest.preset import honest_preset
    from macedance.vision.networks import Networks

    networks = Networks(options.weights)
    ours: list[VideoPreset] = []
    theirs: list[VideoPreset] = []
    for name in dict.fromkeys(options.preset):
        if name == "vbench":
            preset = vbench_preset(
                networks,
                amt_checkout=options.amt,
                amt_scale=options.amt_scale,
                averaging=options.averaging,
                **reporting,
            )
            ours.append(preset)
            theirs.append(preset)
            continue
        source, reason = find_keypoints(options.keypoints, options.weights, device)
        driving = read_driving(options.driving, sets.generated) if options.driving else None
        references = {
            which: read_references(options.reference_images, members) if options.reference_images and members else None
            for which, members in (("generated", sets.generated), ("reference", sets.reference))
        }
        shared: dict[str, Any] = {"keypoints": source, "no_keypoints": reason, **reporting}
        ours.append(honest_preset(networks, references=references["generated"], driving=driving, **shared))
        theirs.append(honest_preset(networks, references=references["reference"], **shared))
    for preset in (*ours, *theirs):
        preset.to(device)
    return ours, theirs


def _check_options(options: argparse.Namespace) -> None:
    unknown = [name for name in options.preset if name not in PRESETS]
    if unknown:
        raise ConfigError(f"--preset {', '.join(unknown)}: unknown", expected=f"some of {', '.join(PRESETS)}")
    positive_int("--max-clips", options.max_clips)
    for name in ("resamples", "seed"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise ConfigError(f"--{name} is {value}", expected="0 or more")
    if not 0 < options.amt_scale <= 1:
        raise ConfigError(f"--amt-scale is {options.amt_scale:g}", expected="above 0 and up to 1")
    if options.match and not options.reference:
        raise ConfigError("--match without --reference: there is nothing to match")
    if "honest" not in options.preset and (options.driving or options.reference_images):
        raise ConfigError("--driving and --reference-images are of the preset honest", fix="add it to --preset")
    if options.driving and options.keypoints == NONE:
        raise ConfigError("--driving needs keypoints of the videos", fix="leave --keypoints none out")
    check_outputs(options.json, options.out)


def _add_players(page: Page, sets: VideoSets, result: ProtocolResult) -> None:
    """The first videos, with how much moves in each."""
    motion = result.per_clip.get("honest", {}).get("person_motion", {})
    flicker = result.per_clip.get("vbench", {}).get("temporal_flickering", {})
    gone = result.inputs["left_out"]["generated"]
    judged = [video for video in sets.generated if video.path and video.path.name not in gone]
    shown = [video for video in judged if video.path and video.path.suffix.lower() in _PLAYABLE][:_MOST_PLAYERS]
    if not shown:
        return
    page.add_heading("Videos")
    if len(shown) < len(judged):
        page.add_text(f"The first {len(shown)} of {len(judged)}.")
    for video in shown:
        told = [
            f"{what} {values[video.name]:.4g}" for what, values in (("motion", motion), ("flicker", flicker)) if values
        ]
        page.add_video(str(video.path), " · ".join([video.name, *told]))
