"""The ``macedance`` command: picks the verb and imports what it needs only then."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

#: verb -> (module with ``main(arguments) -> exit code``, one line of help)
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("launch.demos.command", "the whole job on the built-in corpus: train, evaluate, dance to an unheard song"),
    "fit": ("launch.fit", "train a model from a config"),
    "generate": ("launch.generate", "dance to a song: npz, bvh, glb and mp4 files"),
    "evaluate": (
        "launch.evaluation.command",
        "judge folders: motion, video, animation, cascade; leaderboard, study, weights",
    ),
    "data": ("launch.data", "make a corpus of tar shards: `data demo` or `data bvh`"),
    "checkpoint": ("launch.checkpoint", "export, inspect or reshape a training checkpoint"),
    "convert": ("launch.convert", "turn a released checkpoint into a model folder"),
    "submit": ("launch.cluster.submit", "train on a SLURM cluster: check the request, write its script, queue it"),
    "summary": ("launch.summary", "parameters and FLOPs of a config, without weights or data"),
    "doctor": ("launch.doctor", "what is installed, what is broken, which parts that disables, and the fix"),
}

_FIRST_STEPS = """\
first steps:
  macedance doctor                                  is this machine ready?
  macedance demo --out outputs/demo                 see it learn to dance (about ten minutes, no GPU)
  macedance generate --music song.mp3 --model outputs/demo/model --out outputs/dance

`macedance VERB --help` explains a verb. `--json` prints one JSON object on stdout, `--json FILE` writes it.
MACEDANCE_QUIET=1 turns progress off; MACEDANCE_CACHE names the cache folder.
exit codes: 0 done, 2 a mistake in the request, 75 preempted and saved, 76 hung, 1 anything else."""


def help_text() -> str:
    """The text of ``macedance --help``."""
    verbs = "\n".join(f"  {verb:<12}{text}" for verb, (_, text) in VERBS.items())
    return (
        f"usage: macedance VERB [options]\n\nMusic-driven dance: train, evaluate and run.\n\n{verbs}\n\n{_FIRST_STEPS}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        arguments: Command-line arguments without the program's name; None: those of the process.

    Returns:
        The exit code: 0 done, 2 the user's mistake, 130 interrupted, 1 anything else.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if arguments[0] in ("-V", "--version"):
        from macedance import __version__

        print(f"macedance {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(VERBS)}"
        print(f"macedance: error: there is no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    return _run(verb, rest)


def _run(verb: str, arguments: list[str]) -> int:
    from callbacks.early_signals import early_signals
    from launch.openmp import PATIENT_SPINS, SPINS, let_threads_sleep
    from macedance.errors import MaceDanceError, TransportError

    let_threads_sleep(PATIENT_SPINS if (verb, arguments[:1]) == ("demo", ["appearance"]) else SPINS)
    try:
        with early_signals() if verb == "fit" else nullcontext():
            return int(importlib.import_module(VERBS[verb][0]).main(arguments) or 0)
    except MaceDanceError as error:
        rank = _rank()
        if rank == 0:
            print(f"macedance {verb}: error: {error}", file=sys.stderr)
        elif not error.on_every_rank:
            print(f"macedance {verb}: error on rank {rank}: {error}", file=sys.stderr)
        # A silent server is worth a restart to a training job alone; elsewhere the address is to be mended.
        return 2 if isinstance(error, TransportError) and verb != "fit" else error.exit_code
    except KeyboardInterrupt:
        if _rank() == 0:
            print(f"macedance {verb}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; stdout must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _rank() -> int:
    """Rank of this process as its launcher says; 0 without one."""
    told = (os.environ.get(name, "") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((int(rank) for rank in told if rank.isdigit()), 0)


if __name__ == "__main__":
    sys.exit(main())
