"""Peak memory of reading a base and of starting from a model folder, in bytes of the network's own weights.

Usage: ``python stored_memory.py FOLDER SMALL``, two model folders; prints two numbers of the first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.pipelines.appearance_weights import load_source


def peak() -> int:
    """Bytes; of this program alone, while getrusage begins with what the process was before it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def load(folder: Path) -> AppearanceExpert:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["network"]["init_args"]
    return AppearanceExpert(config["transformer"], config["vae"], str(folder), "bfloat16")


def main(folder: Path, small: Path) -> None:
    load_source(load(small), small)  # what is imported and made once is not counted
    before = peak()
    network = load(folder)
    own = sum(p.numel() * p.element_size() for p in network.parameters())
    loaded = peak()
    load_source(network, folder)
    print((loaded - before) / own, (peak() - before) / own)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
