"""``macedance evaluate cascade``: what a video loses because its motion was generated."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from launch.evaluation.cascade_inputs import DEFAULT_RENDERER, make_renderer, read_cascade
from launch.evaluation.output import check_outputs
from launch.keypoint_sources import KEYPOINT_SOURCES, best_keypoint_source, keypoint_source
from launch.options import Parser, add_json_option, positive_float, positive_int, say
from macedance.errors import ConfigError

if TYPE_CHECKING:
    from macedance.metrics.cascade import Cascade, Judges
    from macedance.metrics.protocol_result import ProtocolResult
    from macedance.vision.networks import Networks

AUTO, NO_KEYPOINTS = "auto", "none"
NOTHING = "none"

_EPILOG = """\
One renderer is driven by the true motion, the generated motion and the true motion made worse, and by the keypoints of
the true videos where it takes those; each arm's videos are judged, and compared clip by clip with the true motion's.
Files of one name in both folders are a pair.

examples:
  macedance evaluate cascade --generated outputs/dances --reference data/test --json out/cascade.json --out out/cascade
  macedance evaluate cascade --generated ours --reference true --videos true/videos --reference-images true/people \\
      --renderer my.package.MyRenderer --renderer-option checkpoint=model --out out/cascade
  macedance evaluate cascade --generated ours --reference true --perturbations foot_slide --gate 'pck_10>-0.05'

How to read the page: docs/evaluation.md"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``evaluate cascade``."""
    parser = Parser(
        prog="macedance evaluate cascade",
        description="What a video loses when it is driven by generated instead of true motion.",
        epilog=_EPILOG,
    )
    parser.add_argument("--generated", required=True, metavar="DIR", help="generated motions")
    parser.add_argument("--reference", required=True, metavar="DIR", help="the true motions, of the same names")
    parser.add_argument("--videos", metavar="DIR", help="the true videos of the clips, of the same names")
    parser.add_argument(
        "--reference-images",
        metavar="PATH",
        help="who dances: a picture, or a folder with one for each clip (default: the renderer's own)",
    )
    parser.add_argument("--fps", type=float, help="frame rate of result files that do not say theirs, or say it wrong")
    parser.add_argument(
        "--renderer", default=DEFAULT_RENDERER, metavar="CLASS", help=f"path of a class (default {DEFAULT_RENDERER})"
    )
    parser.add_argument(
        "--renderer-option", action="append", default=[], metavar="KEY=VALUE", help="of its constructor; JSON or text"
    )
    parser.add_argument("--size", type=int, default=320, metavar="PX", help="of the built-in renderer (default 320)")
    parser.add_argument(
        "--camera", choices=("fixed", "follow"), default="fixed", help="of the built-in renderer (default fixed)"
    )
    parser.add_argument(
        "--keypoints",
        choices=(AUTO, *KEYPOINT_SOURCES, NO_KEYPOINTS),
        default=AUTO,
        help="what finds the dancer (default auto: ViTPose or else BlazePose, where their weights are)",
    )
    parser.add_argument(
        "--perturbations",
        nargs="+",
        metavar="NAME",
        help="how the true motion is made worse: some of noise, jitter, foot_slide, time_stretch, or none "
        "(default the first three)",
    )
    parser.add_argument("--levels", nargs="+", type=int, default=[1, 2, 3], metavar="N", help="of them (default 1 2 3)")
    parser.add_argument(
        "--gate", action="append", metavar="KEY>LIMIT", help="limit of a difference; several are allowed"
    )
    parser.add_argument("--no-vbench", action="store_true", help="leave VBench's dimensions out")
    parser.add_argument("--max-clips", type=int, metavar="N", help="compare at most N clips, drawn by the seed")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="compare the first S seconds of each clip")
    parser.add_argument("--leave-out-bad", action="store_true", help="leave out files that cannot be used, listed")
    parser.add_argument("--allow-small-n", action="store_true", help="give FVD of fewer windows than features too")
    parser.add_argument("--resamples", type=int, metavar="N", help="of the 95%% intervals (default 1000; 0: none)")
    parser.add_argument("--seed", type=int, default=0, help="of renderer, perturbations, intervals (default 0)")
    parser.add_argument("--weights", metavar="DIR", help="folder of the networks' weights (see evaluate weights)")
    parser.add_argument("--device", help="cpu, cuda, ... for the networks (default: a GPU where there is one)")
    parser.add_argument("--out", metavar="DIR", help="folder for index.html, plots and the videos of all arms")
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        ConfigError: An impossible option.
        DataError: Folders that cannot be compared; every file at fault is named.
    """
    options = build_parser().parse_args(arguments)
    _check_options(options)
    with ExitStack() as stack:
        # Videos are judged as they come out of a file, with or without a page to show them on.
        folder = Path(options.out) if options.out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cascade, result = evaluate(options, folder / "arms")
        _report(options, cascade, result, arguments)
    return 0


def evaluate(options: argparse.Namespace, folder: Path) -> tuple[Cascade, ProtocolResult]:
    """Render and judge all arms of the options' clips; videos go into ``folder``.

    Raises:
        ConfigError: As main.
        DataError: As main.
    """
    from launch.devices import pick_device
    from macedance.metrics.cascade import Cascade, evaluate_cascade, parse_gate
    from macedance.metrics.cascade.available import available_looker
    from macedance.metrics.cascade.differences import GATES
    from macedance.metrics.cascade.scores import GENERATED
    from macedance.metrics.statistics import MEAN_RESAMPLES
    from macedance.report.progress import Progress
    from macedance.vision.networks import Networks

    gates = [parse_gate(text) for text in options.gate] if options.gate else GATES
    inputs = read_cascade(options)
    renderer = make_renderer(options, inputs.clips[0].motion.fps)
    device = pick_device(options.device)
    networks = Networks(options.weights)
    judges = _judges(options, networks, device)
    looker, why = available_looker(networks, device=device)
    judges = judges if looker is not None else judges.lacking(("fvd", "kvd"), why)
    kinds = _perturbations(options)
    cascade = Cascade(
        inputs.clips,
        renderer,
        judges,
        looker=looker,
        perturbations=kinds,
        levels=sorted(set(options.levels)),
        seed=options.seed,
        folder=folder,
    )
    # The generated arm is measured last.
    order = [*(arm for arm in cascade.arms if arm != GENERATED), GENERATED]
    with Progress("arms of the cascade", len(order) * len(inputs.clips)) as bar:

        def advance(arm: str, done: int, total: int) -> None:
            bar.update(order.index(arm) * len(inputs.clips) + done, note=arm)

        cascade.progress = advance
        result = evaluate_cascade(
            cascade,
            inputs.generated,
            gates=gates,
            resamples=MEAN_RESAMPLES if options.resamples is None else options.resamples,
            allow_small_n=options.allow_small_n,
            left_out=inputs.left_out,
            notes=inputs.notes,
        )
    return cascade, result


def _judges(options: argparse.Namespace, networks: Networks, device: str) -> Judges:
    from macedance.metrics.cascade.available import available_judges

    source, why = None, "--keypoints none"
    if options.keypoints == AUTO:
        source, why = best_keypoint_source(options.weights, options.device)
    elif options.keypoints != NO_KEYPOINTS:
        source = keypoint_source(options.keypoints, options.weights, options.device)
    return available_judges(networks, keypoints=source, no_keypoints=why, device=device, vbench=not options.no_vbench)


def _perturbations(options: argparse.Namespace) -> tuple[str, ...]:
    from macedance.metrics.cascade import DEFAULT_PERTURBATIONS

    if options.perturbations is None:
        return DEFAULT_PERTURBATIONS
    return () if options.perturbations == [NOTHING] else tuple(dict.fromkeys(options.perturbations))


def _check_options(options: argparse.Namespace) -> None:
    from macedance.metrics.perturbations import NUM_LEVELS, PERTURBATIONS

    unknown = [name for name in _perturbations(options) if name not in PERTURBATIONS]
    if unknown:
        raise ConfigError(
            f"--perturbations {', '.join(unknown)}: unknown", expected=f"some of {', '.join(PERTURBATIONS)}, or none"
        )
    wrong = [level for level in options.levels if not 1 <= level <= NUM_LEVELS]
    if wrong:
        raise ConfigError(f"--levels {wrong[0]}", expected=f"some of 1 to {NUM_LEVELS}")
    positive_float("--fps", options.fps)
    positive_float("--max-seconds", options.max_seconds)
    positive_int("--max-clips", options.max_clips)
    for name in ("resamples", "seed"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise ConfigError(f"--{name} is {value}", expected="0 or more")
    check_outputs(options.json, options.out)


def _report(options: argparse.Namespace, cascade: Cascade, result: ProtocolResult, arguments: Sequence[str]) -> None:
    from macedance.metrics.protocol_result import protocol_text, write_protocol
    from macedance.report.cascade_page import write_cascade_page
    from macedance.report.cascade_text import cascade_remarks, cascade_table

    if options.json == "-":
        say(cascade_table(result))
        sys.stdout.write(f"{protocol_text(result)}\n")
    else:
        print(cascade_table(result))
    for line in cascade_remarks(result):
        say(line)
    if options.json not in (None, "-"):
        write_protocol(options.json, result)
        say(f"result: {options.json}")
    if options.out:
        page = write_cascade_page(
            result,
            options.out,
            videos=Path(options.out) / "arms",
            subtitle=f"{options.generated} against {options.reference}",
            command=f"macedance evaluate cascade {shlex.join(arguments)}",
            true_videos={clip.name: clip.video.path for clip in cascade.clips if clip.video and clip.video.path},
        )
        say(f"page: {page}")
