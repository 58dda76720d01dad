"""``macedance evaluate weights``: the pretrained networks of the protocol, and fetching them when asked to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from launch.evaluation.output import check_outputs
from launch.options import Parser, add_json_option, emit_json, say
from macedance.errors import CheckpointError, ConfigError, MaceDanceError


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(
        prog="macedance evaluate weights",
        description="List the networks that judge videos: licence, source, place, and whether they are there.",
        epilog="example:\n  macedance evaluate weights --download dino_vitb16 clip_vit_b32",
    )
    parser.add_argument(
        "--download",
        nargs="+",
        metavar="NAME",
        help="fetch these from their publishers, or `all`; nothing is fetched without this option",
    )
    parser.add_argument("--verify", action="store_true", help="read every file that is there and compare its sha256")
    parser.add_argument(
        "--weights", metavar="DIR", help="folder of the networks (default $MACEDANCE_WEIGHTS, or in the cache folder)"
    )
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run it; exit code 2 where a network could not be fetched or is not the published one."""
    from macedance.vision.weights import KNOWN, weights_root

    options = build_parser().parse_args(arguments)
    check_outputs(options.json, None)
    wanted = list(dict.fromkeys(options.download or ()))
    unknown = [name for name in wanted if name not in KNOWN and name != "all"]
    if unknown:
        raise ConfigError(f"there are no weights {', '.join(unknown)}", expected=f"some of all, {', '.join(KNOWN)}")
    failed = _download(list(KNOWN) if "all" in wanted else wanted, options.weights)
    rows = [_row(name, options.weights, verify=options.verify) for name in KNOWN]
    failed |= {str(row["name"]): str(row["problem"]) for row in rows if row.get("problem")}
    if options.json:
        emit_json(options.json, {"root": str(weights_root(options.weights)), "weights": rows})
    if options.json != "-":
        _print(rows, str(weights_root(options.weights)))
    if failed:
        raise CheckpointError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    return 0


def _download(names: Sequence[str], root: str | None) -> dict[str, str]:
    """Fetch networks; returns what went wrong with which, so that one silent server does not keep the others back."""
    from macedance.report.progress import Progress
    from macedance.vision.fetch import fetch
    from macedance.vision.weights import KNOWN

    failed = {}
    for name in names:
        known = KNOWN[name]
        say(f"fetching {name} ({known.licence}) from {known.source}" + (f": {known.note}" if known.note else ""))
        try:
            with Progress(name, 1) as bar:
                say(f"  {fetch(known, root, bar)}")
        except MaceDanceError as error:
            failed[name] = str(error)
            say(f"  not fetched: {error}")
    return failed


def _row(name: str, root: str | None, *, verify: bool) -> dict[str, Any]:
    from macedance.vision.fetch import verify as verified
    from macedance.vision.weights import KNOWN, missing_files, weights_folder

    known = KNOWN[name]
    missing = missing_files(name, root)
    row: dict[str, Any] = {
        "name": name,
        "what": known.what,
        "used_for": known.used_for,
        "licence": known.licence,
        "source": known.source,
        "files": list(known.files),
        "sha256": dict(known.sha256) or None,
        "path": str(weights_folder(name, root)),
        "present": not missing,
        "missing": missing,
        "note": known.note,
    }
    if verify and not missing:
        try:
            row["verified"] = verified(known, root)
        except CheckpointError as error:
            row["verified"], row["problem"] = "no", str(error)
    return row


def _print(rows: Sequence[dict[str, Any]], root: str) -> None:
    print(f"networks in {root}\n")
    for row in rows:
        there = "present" if row["present"] else "absent "
        print(f"{there}  {row['name']:<16}{row['what']}: {row['used_for']}")
        print(f"         {row['licence']}; {row['source']}" + (f" ({row['note']})" if row["note"] else ""))
        known = row["sha256"] or {}
        hashes = ", ".join(f"{file} sha256 {value}..." for file, value in known.items())
        print(f"         {hashes or 'no published sha256: pinned at the first download'}")
        if row["present"]:
            print(f"         {row['path']}" + (f" ({row['verified']})" if "verified" in row else ""))
    absent = [row["name"] for row in rows if not row["present"]]
    if absent:
        print(f"\n{len(absent)} of {len(rows)} are absent: their numbers are left out, with the reason.")
