"""Memory and step time of a 100M-parameter Motion Expert under DDP and ZeRO 1-3, beside what theory says, in one run.

    python benchmarks/zero.py [--ranks 2] [--steps 5] [--device cpu|cuda] [--precision 32-true] [--json FILE]

Every strategy trains the same network on the same tiny batches (one window of 16 frames a rank, so that activations
are nothing) with torch's fused AdamW in processes of its own; not fused, it would make temporaries of the size of a
rank's whole shard, which is one tensor under ZeRO. The first two steps are not measured: the optimizer's state is
allocated in them, and DDP's buckets twice. Peak memory is that of the steps after them, per rank, above what the
process held before the network was made: on a GPU the allocator's peak, on a CPU the resident set's (VmHWM), where a
tiny network was trained before, so that what libraries and connections take is not counted. Theory counts bytes per
parameter and nothing else: no bucket, no layer gathered for the moment, no activation, and not the copy, 4 P / N, that
DeepSpeed makes of a rank's gradients for the optimizer's step.

P parameters, N ranks, Adam. float32: weights 4, gradients 4, moments 8; DeepSpeed adds master weights of 4.
  ddp    16 P                         zero1  (4 + 4) P + (4 + 8) P / N
  zero2  4 P + (4 + 4 + 8) P / N      zero3  (4 + 4 + 4 + 8) P / N
bfloat16 under ZeRO: weights 2, gradients 2, master weights 4, moments 8 (Rajbhandari et al., "ZeRO", 2020); DDP keeps
float32 weights under autocast.
  ddp    16 P                         zero1  (2 + 2) P + (4 + 8) P / N
  zero2  2 P + (2 + 4 + 8) P / N      zero3  (2 + 2 + 4 + 8) P / N
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS = ("ddp", "zero1", "zero2", "zero3")
FRAMES, WARM_STEPS = 16, 2
ROOT = Path(__file__).resolve().parents[1]


def theory(kind: str, parameters: int, ranks: int, *, bf16: bool) -> float:
    """Bytes per rank; the formulas above."""
    weight = gradient = 2.0 if bf16 else 4.0
    sharded = {"zero1": 0.0, "zero2": gradient, "zero3": gradient + weight}
    if kind == "ddp":
        return 16.0 * parameters
    whole = weight + gradient - sharded[kind]
    return parameters * (whole + (sharded[kind] + 4 + 8) / ranks)


# ---------------------------------------------------------------- one rank
def resident_bytes(key: str) -> int:
    """VmRSS or VmHWM of this process."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{key}:"))


def reset_peak(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def train(kind: str, options: argparse.Namespace, width: int, layers: int) -> dict[str, float]:
    """Train a few steps on this rank; its peak memory in bytes and its seconds per step."""
    import pytorch_lightning as pl
    import torch
    import yaml

    from lightning_modules.base import ExpertModule
    from macedance.models.motion_expert import MotionExpert

    class Expert(ExpertModule):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
            tokens = self.network.encode_music(batch["music"], None, batch["keep"])
            return self.network.denoise(batch["motion"], batch["t"], batch["beta"], tokens).float().square().mean()

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.ended: list[float] = []

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if options.device == "cuda":
                torch.cuda.synchronize()
            self.ended.append(time.perf_counter())
            if len(self.ended) == WARM_STEPS:
                reset_peak(options.device)

    torch.set_num_threads(1)
    config = yaml.safe_load((ROOT / "configs" / "strategies" / f"{kind}.yaml").read_text(encoding="utf-8"))
    wanted = config["trainer"]["strategy"]
    module_name, _, class_name = wanted["class_path"].rpartition(".")
    strategy = getattr(__import__(module_name, fromlist=[class_name]), class_name)(**wanted["init_args"])
    clock = Clock()
    trainer = pl.Trainer(
        accelerator=options.device, devices=options.ranks, strategy=strategy, precision=options.precision,
        max_steps=options.steps + WARM_STEPS, gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, callbacks=[clock],
    )  # fmt: skip
    before = 0 if options.device == "cuda" else resident_bytes("VmRSS")
    size = {"latent_dim": width, "num_dance_layers": layers, "dropout": 0.0}
    module = Expert(lambda: MotionExpert(**size), lambda p: torch.optim.AdamW(p, lr=1e-4, fused=True))
    batch = {
        "motion": torch.randn(1, FRAMES, 151), "music": torch.randn(1, FRAMES, 35),
        "t": torch.zeros(1, dtype=torch.int64), "beta": torch.ones(1), "keep": torch.tensor([True]),
    }  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader([batch] * (options.steps + WARM_STEPS), batch_size=None))
    peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else resident_bytes("VmHWM")
    shapes = (getattr(p, "ds_shape", p.shape) for p in module.parameters())
    ended = clock.ended[WARM_STEPS - 1 :]
    steps = sorted(b - a for a, b in itertools.pairwise(ended))
    return {
        "parameters": float(sum(torch.Size(s).numel() for s in shapes)),
        "peak_bytes": float(peak - before),
        "step_s": steps[len(steps) // 2],
    }


# ---------------------------------------------------------------- all ranks
def run(kind: str, options: argparse.Namespace) -> dict[str, float]:
    """Start the ranks of one strategy; the largest peak and the slowest rank's median step."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for rank in range(options.ranks):
            environment = {
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(options.ranks),
                "LOCAL_WORLD_SIZE": str(options.ranks), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": kind, "OMP_NUM_THREADS": "1",
                # Freed tensors go back to the system at once, so that the resident set is what is in use.
                "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0",
            }  # fmt: skip
            command = [sys.executable, __file__, *sys.argv[1:], "--rank-of", kind, "--out", f"{folder}/{rank}.json"]
            log = os.open(f"{folder}/{rank}.log", os.O_CREAT | os.O_WRONLY)
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        try:
            for process in processes:
                process.wait(timeout=300)
        finally:
            for process in processes:
                process.kill()
        if any(process.returncode for process in processes):
            said = (Path(folder, f"{rank}.log").read_text()[-2000:] for rank in range(options.ranks))
            raise SystemExit(f"{kind} failed:\n" + "\n".join(said))
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(options.ranks)]
    return {key: max(rank[key] for rank in ranks) for key in ranks[0]}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, dict[str, float]] = {}
    for kind in options.kinds.split(","):
        rows[kind] = run(kind, options)
        bytes_ = theory(kind, int(rows[kind]["parameters"]), options.ranks, bf16=options.precision.startswith("bf16"))
        rows[kind]["theory_bytes"] = bytes_
        rows[kind]["step_ratio"] = rows[kind]["step_s"] / rows["ddp"]["step_s"]
    return {"ranks": options.ranks, "device": options.device, "precision": options.precision, "strategies": rows}


def report(result: dict[str, Any]) -> None:
    parameters = result["strategies"]["ddp"]["parameters"]
    print(
        f"{parameters / 1e6:.1f}M parameters, {result['ranks']} ranks, {result['device']}, {result['precision']}, AdamW"
    )
    print("strategy  peak MB  theory MB  peak/theory  peak/ddp  step s  step/ddp")
    for kind, row in result["strategies"].items():
        peak, expected = row["peak_bytes"], row["theory_bytes"]
        share = peak / result["strategies"]["ddp"]["peak_bytes"]
        print(
            f"{kind:8} {peak / 1e6:8.0f} {expected / 1e6:10.0f} {peak / expected:12.2f} {share:9.2f}"
            f" {row['step_s']:7.2f} {row['step_ratio']:9.2f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--width", type=int, default=512, help="of the network")
    parser.add_argument("--layers", type=int, default=14, help="of the network")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--kinds", default=",".join(KINDS), help="strategies to measure, with ddp")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        train(options.rank_of, options, 32, 1)
        result = train(options.rank_of, options, options.width, options.layers)
        Path(options.out).write_text(json.dumps(result), encoding="utf-8")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the ranks are ended on the way out
    result = measure(options)
    report(result)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
