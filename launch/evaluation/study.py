"""``macedance evaluate study``: a blind pairwise page for raters, and what their answers say."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.evaluation.output import check_outputs
from launch.options import Parser, add_json_option, emit_json, positive_int, say
from macedance.errors import ConfigError

QUESTIONS_HELP = "mace: MACE-Dance's six; edmg: EDMG's three; all (default)"


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(
        prog="macedance evaluate study",
        description="Make a page on which raters choose between two systems, blind and in a seeded order; then turn "
        "their answers into win rates, intervals and correlations with the metrics.",
        epilog="examples:\n"
        "  macedance evaluate study --a outputs/ours --b outputs/edge --out outputs/study\n"
        "  (give raters the folder outputs/study/page, keep outputs/study/key.json, collect their CSV files)\n"
        "  macedance evaluate study --out outputs/study --answers answers/*.csv --results-a ours.json --results-b "
        "edge.json",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the study")
    making = parser.add_argument_group("making the page")
    making.add_argument("--a", metavar="DIR", help="videos of the first system")
    making.add_argument("--b", metavar="DIR", help="videos of the second one, of the same names")
    making.add_argument("--name-a", metavar="NAME", help="what to call it in the results (default: its folder)")
    making.add_argument("--name-b", metavar="NAME", help="likewise")
    making.add_argument("--questions", choices=("mace", "edmg", "all"), default="all", help=QUESTIONS_HELP)
    making.add_argument("--music", metavar="DIR", help="songs by the clips' names, played instead of the videos' sound")
    making.add_argument("--reference-images", metavar="DIR", help="pictures of the dancers by the clips' names")
    making.add_argument("--max-clips", type=int, metavar="N", help="at most N pairs, drawn by the seed (default: all)")
    making.add_argument(
        "--repeats", type=int, metavar="N", help="pairs shown twice (default: a tenth, from 6 pairs on)"
    )
    making.add_argument("--leave-out-bad", action="store_true", help="leave out files that cannot be used, and say so")
    answers = parser.add_argument_group("reading the answers")
    answers.add_argument("--answers", nargs="+", metavar="CSV", help="files that raters saved")
    answers.add_argument("--results-a", nargs="+", default=[], metavar="JSON", help="metrics of the first system")
    answers.add_argument("--results-b", nargs="+", default=[], metavar="JSON", help="metrics of the second one")
    answers.add_argument("--resamples", type=int, default=2000, metavar="N", help="of the intervals (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same study and same intervals (default 0)")
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = build_parser().parse_args(arguments)
    positive_int("--max-clips", options.max_clips)
    positive_int("--resamples", options.resamples)
    if options.repeats is not None and options.repeats < 0:
        raise ConfigError(f"--repeats is {options.repeats}", expected="0 or more")
    if (options.a is None) != (options.b is None):
        raise ConfigError("--a and --b are the two sides of a study", fix="name both")
    if bool(options.results_a) != bool(options.results_b):
        raise ConfigError("--results-a and --results-b are compared clip by clip", fix="name both")
    if options.a is None and options.answers is None:
        raise ConfigError("nothing to do", fix="--a DIR --b DIR makes a study, --answers CSV... reads its answers")
    if options.a is not None and options.answers is not None:
        raise ConfigError("a study is made with --a and --b, and read with --answers", fix="call it twice")
    check_outputs(options.json, options.out)
    command = shlex.join(["macedance", "evaluate", "study", *arguments])
    result = make(options) if options.answers is None else read(options, command)
    if options.json:
        emit_json(options.json, result)
    return 0


def make(options: argparse.Namespace) -> dict[str, Any]:
    """Make the page; returns what ``--json`` prints."""
    from macedance.metrics.study import QUESTION_SETS
    from macedance.report.progress import Progress
    from macedance.report.study_page import KEY, PAGE, StudyRequest, make_study
    from macedance.vision.video import match_videos, read_videos

    out = Path(options.out)
    sides = {which: read_videos(getattr(options, which), leave_out_bad=options.leave_out_bad) for which in ("a", "b")}
    left_out = {which: folder.left_out for which, folder in sides.items()}
    for which, files in left_out.items():
        for name, why in files.items():
            say(f"left out of --{which}: {name}: {why}")
    ours, theirs = (list(folder.videos) for folder in sides.values())
    if any(left_out.values()):
        both = {video.name for video in ours} & {video.name for video in theirs}
        gone = {Path(name).stem for files in left_out.values() for name in files}
        ours, theirs = ([v for v in videos if v.name in both or v.name not in gone] for videos in (ours, theirs))
    pairs = match_videos(ours, theirs)
    request = StudyRequest(
        a={video.name: Path(str(video.path)) for video, _ in pairs},
        b={video.name: Path(str(other.path)) for video, other in pairs},
        names={"a": options.name_a or _name(options.a), "b": options.name_b or _name(options.b)},
        folders={"a": options.a, "b": options.b},
        questions=QUESTION_SETS[options.questions],
        seed=options.seed,
        max_clips=options.max_clips,
        repeats=options.repeats,
        songs=None if options.music is None else Path(options.music),
        references=None if options.reference_images is None else Path(options.reference_images),
    )
    if request.names["a"] == request.names["b"]:
        raise ConfigError(
            f"both systems are called {request.names['a']!r}", fix="--name-a and --name-b tell them apart"
        )
    with Progress("copying videos", 2 * len(pairs)) as bar:
        key = make_study(request, out, bar)
    for remark in key.remarks:
        say(f"mind: {remark}")
    say(f"{out / PAGE}: give this folder to the raters")
    say(f"{out / KEY}: keep this from them; it says which video is whose")
    return {
        "study": key.study,
        "page": str(out / PAGE / "index.html"),
        "key": str(out / KEY),
        "pairs": sum(not trial.repeat for trial in key.trials),
        "repeats": sum(trial.repeat for trial in key.trials),
        "questions": list(key.questions),
        "remarks": list(key.remarks),
        "left_out": left_out,
    }


def read(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Read the answers; returns what ``--json`` prints."""
    from macedance.metrics.protocol_result import write_protocol
    from macedance.metrics.study import QUESTIONS
    from macedance.metrics.study_files import read_answers, read_key
    from macedance.report.study_page import KEY
    from macedance.report.study_results import PRESET, read_metrics, study_result, write_study_results

    out = Path(options.out)
    key = read_key(out / KEY)
    answers, remarks = read_answers(options.answers, key)
    for remark in remarks:
        say(f"mind: {remark}")
    metrics = [read_metrics(paths) if paths else None for paths in (options.results_a, options.results_b)]
    result = study_result(
        key, answers, remarks, metrics_a=metrics[0], metrics_b=metrics[1],
        resamples=options.resamples, seed=options.seed,
    )  # fmt: skip
    page = write_study_results(out / "results", result, command=command)
    write_protocol(out / "results" / "study.json", result)
    for name, entry in result.presets[PRESET].items():
        if name in QUESTIONS:
            ends = " to ".join(f"{end:.3f}" for end in entry.get("ci95", ())) or "no interval"
            told = f"{entry['n']} answers of {entry['raters']} raters"
            say(f"{QUESTIONS[name].name:<22} {key.names['a']} {entry['value']:.3f} ({ends}), {told}")
    say(str(page))
    return result.as_json()


def _name(folder: str) -> str:
    return Path(folder).resolve().name
