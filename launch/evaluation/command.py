"""``macedance evaluate``: picks what to judge and imports what that needs only then."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence

from macedance.errors import ConfigError

#: what -> (module with ``main(arguments) -> exit code``, one line of help)
SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "motion": ("launch.evaluation.motion", "dances against reference dances: distributions, beats, feet, smoothness"),
    "video": ("launch.evaluation.video", "videos by themselves: VBench's six dimensions and what keeps them honest"),
    "animation": ("launch.evaluation.animation", "videos against the true ones: FVD, KVD, SSIM, PSNR, LPIPS"),
    "cascade": (
        "launch.evaluation.cascade",
        "what a video loses when it is driven by generated instead of true motion",
    ),
    "leaderboard": ("launch.evaluation.leaderboard", "our results beside the published ones, and which are comparable"),
    "study": ("launch.evaluation.study", "a blind pairwise page for raters, and what their answers say"),
    "weights": ("launch.evaluation.weights", "the networks that judge: licence, place, and whether they are there"),
}

_EXAMPLES = """\
examples:
  macedance evaluate motion --generated outputs/dances --reference data/test --json outputs/motion.json
  macedance evaluate video --generated outputs/videos --json outputs/video.json
  macedance evaluate weights

`macedance evaluate WHAT --help` explains one. Results have one schema; see docs/evaluation.md."""


def help_text() -> str:
    """The text of ``macedance evaluate --help``."""
    listed = "\n".join(f"  {name:<13}{text}" for name, (_, text) in SUBCOMMANDS.items())
    return f"usage: macedance evaluate WHAT [options]\n\nJudge folders of results.\n\n{listed}\n\n{_EXAMPLES}"


def main(arguments: Sequence[str]) -> int:
    """Run the verb.

    Raises:
        ConfigError: Nothing to judge was named, or something unknown.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if not arguments or arguments[0] not in SUBCOMMANDS:
        named = f"there is no {arguments[0]!r} to evaluate" if arguments else "what to evaluate is not named"
        near = difflib.get_close_matches(arguments[0], SUBCOMMANDS, n=1) if arguments else []
        raise ConfigError(
            named,
            expected=f"one of {', '.join(SUBCOMMANDS)}",
            fix=f"did you mean {near[0]}?" if near else "see `macedance evaluate --help`",
        )
    module = importlib.import_module(SUBCOMMANDS[arguments[0]][0])
    return int(module.main(list(arguments[1:])) or 0)
