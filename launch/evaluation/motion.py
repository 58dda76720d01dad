"""``macedance evaluate motion``: a folder of dances against a folder of reference dances."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from launch.evaluation.motion_inputs import read_sets
from launch.evaluation.output import check_outputs, hand_over
from launch.keypoint_sources import KEYPOINT_SOURCES
from launch.options import Parser, add_json_option, positive_float, positive_int
from macedance.errors import ConfigError

if TYPE_CHECKING:
    from macedance.metrics.protocol import ProtocolResult

PRESETS = ("clean", "bailando_aist", "lodge_finedance", "megadance", "mace3d", "mace2d")

_EPILOG = """\
A folder holds one file a clip: .npz (poses and trans, joints, or keypoints; fps), result files of AIST++, EDGE, LODGE,
FineDance, MEGADance and MACE-Dance (.pkl, .npy, .json), or videos (with --keypoints). Files of one name are a pair.

examples:
  macedance evaluate motion --generated outputs/dances --reference data/test --json outputs/motion.json
  macedance evaluate motion --generated theirs --reference aist/motions --music aist/wav --preset clean bailando_aist \\
      --json out/motion.json --out out/motion
  macedance evaluate motion --generated videos/ours --reference videos/true --keypoints blazepose --preset clean

Conventions, and what can be compared with what: docs/evaluation.md"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``evaluate motion``."""
    parser = Parser(
        prog="macedance evaluate motion",
        description="Judge dances by reference dances: distributions, beats, feet, smoothness.",
        epilog=_EPILOG,
    )
    parser.add_argument("--generated", required=True, metavar="DIR", help="the dances to judge")
    parser.add_argument("--reference", required=True, metavar="DIR", help="real dances to judge them by")
    parser.add_argument(
        "--music", metavar="DIR", help="songs; clips without beats of their own get those of the song of their name"
    )
    parser.add_argument(
        "--preset", nargs="+", default=["clean"], metavar="NAME", help=f"some of {', '.join(PRESETS)} (default clean)"
    )
    parser.add_argument(
        "--kind", choices=("joints", "keypoints"), help="what to read of files that hold both (default joints)"
    )
    parser.add_argument("--fps", type=float, help="frame rate of result files that do not say theirs, or say it wrong")
    parser.add_argument(
        "--keypoints",
        choices=tuple(KEYPOINT_SOURCES),
        help="judge the videos of the folders by keypoints found in them",
    )
    parser.add_argument(
        "--match", action="store_true", help="refuse clips that have no partner of their name in the other folder"
    )
    parser.add_argument(
        "--max-clips", type=int, metavar="N", help="judge at most N of each folder, drawn by the seed, pairs together"
    )
    parser.add_argument(
        "--leave-out-bad", action="store_true", help="leave out files that cannot be used, listed, instead of stopping"
    )
    parser.add_argument(
        "--allow-small-n", action="store_true", help="give Fréchet distances for fewer clips than features too"
    )
    parser.add_argument("--resamples", type=int, metavar="N", help="of the 95%% intervals (default 1000; 0: none)")
    parser.add_argument("--floor-draws", type=int, metavar="N", help="of the floor (default 20; 0: none)")
    parser.add_argument("--seed", type=int, default=0, help="of intervals, floors and --max-clips (default 0)")
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
    """
    options = build_parser().parse_args(arguments)
    _check_options(options)
    result = evaluate(options)
    hand_over(
        result,
        json=options.json,
        out=options.out,
        title="Dances against reference dances",
        subtitle=f"{options.generated} against {options.reference}",
        command=["evaluate", "motion", *arguments],
    )
    return 0


def evaluate(options: argparse.Namespace) -> ProtocolResult:
    """Judge the two folders of the options; see build_parser.

    Raises:
        ConfigError: A preset that is unknown or reads clips of the other kind.
        DataError: As main.
    """
    from macedance.metrics.protocol import evaluate_protocol
    from macedance.metrics.statistics import FLOOR_DRAWS, MEAN_RESAMPLES

    sets = read_sets(options)
    result = evaluate_protocol(
        sets.generated,
        sets.reference,
        presets=list(dict.fromkeys(options.preset)),
        allow_small_n=options.allow_small_n,
        resamples=MEAN_RESAMPLES if options.resamples is None else options.resamples,
        floor_draws=FLOOR_DRAWS if options.floor_draws is None else options.floor_draws,
        seed=options.seed,
        resolution=sets.resolution,
        left_out=sets.left_out,
    )
    inputs = {**result.inputs, "settings": {**result.inputs["settings"], **sets.settings}}
    return replace(result, inputs=inputs, weights=sets.weights).with_notes({"inputs": sets.notes})


def _check_options(options: argparse.Namespace) -> None:
    unknown = [name for name in options.preset if name not in PRESETS]
    if unknown:
        raise ConfigError(f"--preset {', '.join(unknown)}: unknown", expected=f"some of {', '.join(PRESETS)}")
    positive_float("--fps", options.fps)
    positive_int("--max-clips", options.max_clips)
    for name in ("resamples", "floor_draws", "seed"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}", expected="0 or more")
    if options.kind == "joints" and options.keypoints:
        raise ConfigError("--keypoints finds no joints", fix="leave --kind out")
    check_outputs(options.json, options.out)
