"""Time, memory and accuracy of our Mamba-1 scan on a CPU beside mambapy's and a plain autograd loop.

    python benchmarks/scan.py [--quick] [--lengths 240 1024 4096] [--json FILE]

Every case runs in a process of its own, on one thread: forward + backward of the scan with its skip and gate, B=4,
d_model=512 (1024 channels), 16 states. Seconds are those of the process's CPU, the best of several runs; the peak is
the growth of resident memory over the inputs during the first run. A case that would not fit into the free memory is
said so and not run. Compiling our loops happens before, at a tiny size, and is timed by itself.

Shapes: B batch, T time steps, D channels, N state size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from macedance.nn.scan import reference_scan, selective_scan

BATCH, MODEL_DIM, STATE = 4, 512, 16
LENGTHS = (240, 1024, 4096)
QUICK_LENGTHS = (16, 40)
# Peak over the size of one (B, T, D, N) float32 tensor, seen at small sizes: what a case is expected to need.
EXPECTED_SLABS = {"ours": 1.0, "ours, plain torch": 1.5, "mambapy": 10.0, "autograd loop": 8.0}
ACCURACY_CHANNELS = 16
TARGETS = {"speed": 5.0, "memory": 0.5, "output": 1e-6, "gradient": 1e-5}

Scan = Callable[..., Tensor]


def autograd_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, gate: Tensor) -> Tensor:
    """The recurrence as one would write it, left to autograd."""
    decay_BTDN = torch.exp(delta[..., None] * A)
    input_BTDN = (delta * u)[..., None] * B[:, :, None]
    h_BDN = torch.zeros_like(decay_BTDN[:, 0])
    outputs = []
    for decay, value, weight in zip(decay_BTDN.unbind(1), input_BTDN.unbind(1), C.unbind(1), strict=True):
        h_BDN = decay * h_BDN + value
        outputs.append((h_BDN @ weight[..., None])[..., 0])
    return (torch.stack(outputs, dim=1) + skip * u) * F.silu(gate)


def mambapy_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, gate: Tensor) -> Tensor:
    """What mambapy's block does around its parallel scan."""
    from mambapy.pscan import pscan

    h_BTDN = pscan(torch.exp(delta[..., None] * A), (delta * u)[..., None] * B[:, :, None])
    return ((h_BTDN @ C[..., None])[..., 0] + skip * u) * F.silu(gate)


SCANS: dict[str, Scan] = {
    "ours": selective_scan,
    "ours, plain torch": lambda *inputs: selective_scan(*inputs, plain=True),
    "mambapy": mambapy_scan,
    "autograd loop": autograd_loop,
}


def make_inputs(length: int, channels: int, batch: int = BATCH) -> list[Tensor]:
    """Inputs as at the start of a training: rates 1..N, step sizes log-uniform in [1e-3, 1e-1]."""
    g = torch.Generator().manual_seed(length)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=g)

    delta = 10 ** (torch.rand(batch, length, channels, generator=g) * 2 - 3)
    A = -torch.arange(1.0, STATE + 1).repeat(channels, 1)
    shape = (batch, length, channels)
    values = [draw(*shape), delta, A, draw(batch, length, STATE), draw(batch, length, STATE), draw(channels)]
    return [value.requires_grad_() for value in (*values, draw(*shape))]


def memory_mb(field: str) -> float:
    """A field of /proc/self/status in MB; the peak of the process where there is no such file."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_case(name: str, length: int, channels: int, repeats: int) -> dict[str, float]:
    """Measure one case in this process."""
    torch.set_num_threads(1)
    scan = SCANS[name]

    def step(inputs: list[Tensor], grad: Tensor) -> None:
        torch.autograd.grad(scan(*inputs), inputs, grad)

    started = time.process_time()
    step(make_inputs(8, 8, 1), torch.ones(1, 8, 8))
    warm_up = time.process_time() - started

    inputs = make_inputs(length, channels)
    grad = torch.ones(BATCH, length, channels)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before = memory_mb("VmRSS")
    seconds: list[float] = []
    peak = 0.0
    for _ in range(repeats):
        started = time.process_time()
        step(inputs, grad)
        seconds.append(time.process_time() - started)
        peak = peak or memory_mb("VmHWM") - before
        if sum(seconds) > 30:
            break
    return {"seconds": min(seconds), "peak_mb": peak, "warm_up_seconds": warm_up}


def accuracy(length: int) -> dict[str, float]:
    """Relative error of output and worst gradient against a sequential float64 scan (channels are independent)."""
    inputs = make_inputs(length, ACCURACY_CHANNELS, batch=2)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    y = selective_scan(*inputs)
    u, delta, A, B, C, skip, gate = exact
    y_exact = (reference_scan(u, delta, A, B, C) + skip * u) * F.silu(gate)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    pairs = zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(y_exact, exact, grad.double()), strict=True)
    return {"output": relative(y, y_exact), "gradient": max(relative(a, b) for a, b in pairs)}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.detach()).norm() / b.detach().norm())


def free_mb() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")


def run_apart(name: str, length: int, channels: int, repeats: int) -> dict[str, Any]:
    """Measure one case in its own process, unless it would not fit."""
    needed = EXPECTED_SLABS[name] * BATCH * length * channels * STATE * 4 / 2**20
    free = free_mb()
    if needed > 0.8 * free:
        return {"reason": f"does not fit: needs about {needed / 1024:.1f} GB, {free / 1024:.1f} GB are free"}
    command = [sys.executable, __file__, "--case", name, str(length), str(channels), str(repeats)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    limit = int(free * 2**20)

    def hold_to_free_memory() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    result = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=hold_to_free_memory)
    if result.returncode == 0:
        return dict(json.loads(result.stdout))
    if result.returncode < 0 or "memory" in result.stderr.lower():
        return {"reason": f"does not fit into {free / 1024:.1f} GB"}
    last = (result.stderr.strip().splitlines() or ["?"])[-1]
    return {"reason": f"failed: {last}"}


def report(length: int, cases: dict[str, dict[str, Any]], errors: dict[str, float]) -> None:
    ours = cases["ours"]
    print(f"\nL = {length}")
    print(f"  {'scan':<20}{'CPU s':>9}{'x ours':>8}{'peak MB':>10}{'x ours':>8}")
    for name, case in cases.items():
        if "reason" in case or "reason" in ours:
            print(f"  {name:<20}{case.get('reason', '')}")
            continue
        times, memory = case["seconds"] / ours["seconds"], case["peak_mb"] / max(ours["peak_mb"], 0.1)
        print(f"  {name:<20}{case['seconds']:>9.4f}{times:>8.1f}{case['peak_mb']:>10.0f}{memory:>8.1f}")
    print(
        f"  against float64, step by step: output {errors['output']:.1e} (bound {TARGETS['output']:.0e}), "
        f"worst gradient {errors['gradient']:.1e} (bound {TARGETS['gradient']:.0e})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one run each")
    parser.add_argument("--lengths", type=int, nargs="+", metavar="L")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        name, *numbers = options.case
        print(json.dumps(run_case(name, *(int(x) for x in numbers))))
        return 0

    channels = 32 if options.quick else 2 * MODEL_DIM
    repeats = 1 if options.quick else 5
    torch.set_num_threads(1)
    print(f"forward + backward, B={BATCH}, {channels} channels, {STATE} states, one thread, process CPU seconds")
    figures: dict[str, Any] = {}
    for length in options.lengths or (QUICK_LENGTHS if options.quick else LENGTHS):
        cases = {name: run_apart(name, length, channels, repeats) for name in SCANS}
        errors = accuracy(length)
        report(length, cases, errors)
        figures[str(length)] = {"cases": cases, "errors": errors}
    warm_up = max(
        case.get("warm_up_seconds", 0.0) for f in figures.values() for n, case in f["cases"].items() if n == "ours"
    )
    print(f"\nfirst call of our loops: {warm_up:.1f} CPU s (compiled once, then read from the cache)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
