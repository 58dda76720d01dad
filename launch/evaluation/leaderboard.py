"""``macedance evaluate leaderboard``: our results beside every published one, and which are comparable."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.evaluation.output import check_outputs
from launch.options import Parser, add_json_option, emit_json, say, writable_folder


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(
        prog="macedance evaluate leaderboard",
        description="Put results beside the published ones: one HTML page and one Markdown file, which say of every "
        "published table whether it is comparable and why not.",
        epilog="examples:\n"
        "  macedance evaluate leaderboard outputs/results --out outputs/leaderboard\n"
        "  macedance evaluate leaderboard ours=motion.json edge=edge.json --dataset finedance --out outputs/board",
    )
    parser.add_argument(
        "results",
        nargs="+",
        metavar="[NAME=]DIR|FILE",
        help="results that `macedance evaluate` wrote, folders of them, or training runs (their newest)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for index.html, leaderboard.md and plots")
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="[NAME=]DATA",
        help="what was measured: ma-data, finedance, aist++ or other; without it nothing counts as comparable",
    )
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = build_parser().parse_args(arguments)
    check_outputs(options.json, options.out)
    result = leaderboard(options, ["macedance", "evaluate", "leaderboard", *arguments])
    if options.json:
        emit_json(options.json, result)
    return 0


def leaderboard(options: argparse.Namespace, command: Sequence[str]) -> dict[str, Any]:
    """Write the page; returns what ``--json`` prints."""
    from macedance.metrics.published import published
    from macedance.report.leaderboard import measured_alike, tables
    from macedance.report.leaderboard_entrants import find_entrants
    from macedance.report.leaderboard_pages import write_leaderboard

    known = published()
    found = find_entrants(options.results, options.dataset, known)
    for remark in found.remarks:
        say(remark)
    files = write_leaderboard(writable_folder(Path(options.out)), found, known, command=shlex.join(command))
    made = tables(found.entrants, known)
    for label in made[0].verdicts:
        levels = [table.verdicts[label].level for table in made]
        yes, caution = levels.count("yes"), levels.count("with caution")
        say(f"{label}: of {len(levels)} published tables {yes} are comparable, {caution} with caution")
    for path in files:
        say(str(path))
    return {
        "files": [str(path) for path in files],
        "results": [
            {"name": e.label, "file": str(e.path), "dataset": e.dataset, "hash": e.result.hash} for e in found.entrants
        ],
        "measured_alike": measured_alike(found.entrants),
        "remarks": found.remarks,
        "tables": [table.as_json() for table in made],
    }
