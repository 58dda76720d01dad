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
  --checkpoint_every_n_steps N    also keep periodic checkpoints
  --init_from DIR|CKPT            start from the weights of a model folder or checkpoint
  --seed_everything N             seed of initialisation, order and draws
  --print_config                  print the whole config and stop
  --trainer.fast_dev_run true     one batch of everything, to see whether it runs; writes nothing
  --json [FILE]                   print the result as one JSON object, or write it to FILE

Any key of the config is an option: --model.network.init_args.latent_dim=256, --trainer.precision=bf16-mixed.
A run directory holds config.yaml, metrics.csv, metrics_val.csv, provenance.json, checkpoints/, samples/, protocol/.

example:
  macedance fit --config mace_motion_demo --run_dir outputs/first --trainer.max_steps 200"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    if not arguments or any(a in ("-h", "--help") for a in arguments):
        print(_HELP)
        return 0
    arguments, json_target = _without_json(arguments)
    from launch.training import train

    run = train(arguments)
    checkpoint = run.directory / "checkpoints" / "last.ckpt"
    if checkpoint.exists():
        say(f"done: {run.trainer.global_step} steps; {checkpoint}")
    if json_target:
        loss = run.trainer.callback_metrics.get("train/loss")
        result = {
            "run_dir": str(run.directory),
            "steps": run.trainer.global_step,
            "checkpoint": str(checkpoint) if checkpoint.exists() else None,
            "train/loss": None if loss is None else float(loss),
        }
        emit_json(json_target, result)
    return 0


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
