"""``macedance fit``: train a model from a config."""

from __future__ import annotations

from collections.abc import Sequence

from launch.options import emit_json, say

_HELP = """\
usage: macedance fit --config NAME|FILE [--run_dir DIR] [--KEY VALUE ...]

Train a model. A config is a shipped name or a YAML file; later configs and keys override earlier ones.

  --config NAME|FILE              e.g. mace_motion_demo; may be given several times (debug/mace_motion_cpu, ...)
  --run_dir DIR                   the run's own directory (default: outputs/runs/<config>)
  --data.shards DIR               a corpus: the folder that `macedance data` made
  --data.global_batch_size N      samples per optimizer step, over all ranks
  --trainer.max_steps N           optimizer steps
  --checkpoint_every_n_steps N    also save every N optimizer steps; the last --keep_last_checkpoints (3) stay
  --resume auto|never|must|PATH   go on from the newest checkpoint of the run directory that verifies (auto, the
                                  default); never: a new run only; must: fail where there is none; or from PATH
  --init_from DIR|CKPT            start from the weights of a model folder or checkpoint
  --seed_everything N             seed of initialisation, order and draws
  --print_config                  print the whole config and stop
  --trainer.fast_dev_run true     one batch of everything, to see whether it runs; writes nothing
  --json [FILE]                   print the result as one JSON object, or write it to FILE

Any key of the config is an option: --model.network.init_args.latent_dim=256, --trainer.precision=bf16-mixed.
Under a scheduler: SIGUSR1 and SIGTERM save and stop with exit code 75; the same command goes on from there.
Several devices or nodes: --config strategies/ddp (zero1, zero2, zero3, zero3_offload) --trainer.devices=N.
A run directory holds config.yaml, metrics.csv, metrics_val.csv, provenance.json, checkpoints/, samples/, protocol/.

example:
  macedance fit --config mace_motion_demo --run_dir outputs/first --trainer.max_steps 200"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    if not arguments or any(a in ("-h", "--help") for a in arguments):
        print(_HELP)
        return 0
    from launch.cluster.slurm import recorded

    return recorded(lambda: _fit(arguments))


def _fit(arguments: Sequence[str]) -> int:
    arguments, json_target = _without_json(arguments)
    from launch.cluster.slurm import conclude
    from launch.distributed import is_first_rank, launched_by_lightning
    from launch.training import train

    run = train(arguments)
    if run.preempted:
        conclude(run.preemption, run.directory)
    if not is_first_rank():
        # Lightning's main process takes any other code of a process that it started for a crash.
        return 75 if run.preempted and not launched_by_lightning() else 0
    newest = run.directory / "checkpoints" / "last.ckpt"
    checkpoint = str(newest) if newest.exists() else None
    if checkpoint and not run.start.finished and not run.preempted:
        say(f"done: {run.steps} steps; {checkpoint}")
    if json_target:
        loss = run.trainer.callback_metrics.get("train/loss")
        result = {
            "run_dir": str(run.directory),
            "steps": run.steps,
            "resumed_from_step": run.start.manifest.step if run.start.manifest is not None else None,
            "finished": run.steps >= run.trainer.max_steps,
            "preempted": run.preempted,
            "checkpoint": checkpoint,
            "train/loss": None if loss is None else float(loss),
        }
        emit_json(json_target, result)
    return 75 if run.preempted else 0


def _without_json(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without ``--json [FILE]``, which is no key of a config, and its target."""
    kept: list[str] = []
    target: str | None = None
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--json":
            target = words.pop(0) if words and not words[0].startswith("-") else "-"
        elif word.startswith("--json="):
            target = word.removeprefix("--json=")
        else:
            kept.append(word)
    return kept, target
