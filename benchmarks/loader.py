"""Our loader, shuffled, beside webdataset's own sequential reading, on the same shards in one run.

    python benchmarks/loader.py [--samples 2500] [--rounds 3] [--json FILE]

Shards of realistic samples (240 frames, about 110 kB) are made in a temporary folder and read from the page cache.
Each side gives the same batches of 32 windows, decoded and checked by the same functions and collated by the same
one; the rows differ in who reads the tars and in what order. `own decoder` is webdataset with its own `.decode()`
instead of ours, without our checks. The rounds alternate between the sides, and the best of each counts. The resume is
timed at 90% of an epoch of 10^5 samples, from nothing to the first batch, in this process with imports done.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from datamodules.motion import MotionDataModule
from datamodules.streams.dataset import MotionSamples
from datamodules.streams.manifest import Manifest, ShardEntry, SplitInfo
from datamodules.streams.order import ElasticBatchSampler, GlobalOrder
from datamodules.streams.samples import ClipMeta, MotionSample, decode_sample, encode_members
from datamodules.streams.shards import open_shards
from datamodules.streams.windows import MotionLoader, TrainingWindows, collate, cut_window
from macedance.motion.files import Motion
from macedance.motion.normalizer import MinMaxNormalizer

FRAMES, WINDOW, BATCH, PER_SHARD = 240, 150, 32, 100
RESUME_SAMPLES, RESUME_SHARDS = 100_000, 100
TARGETS = {"throughput": 1.2, "resume_s": 1.0, "index_bytes": 100.0}
Batches = Callable[[], Iterator[Any]]


def sample(number: int, frames: int) -> MotionSample:
    rng = np.random.default_rng(number)
    motion = Motion(
        poses=rng.normal(size=(frames, 24, 3)).astype(np.float32),
        trans=rng.normal(size=(frames, 3)).astype(np.float32),
        fps=30.0,
        genre="house",
        licence="CC0",
        music_beats_s=np.arange(0, frames / 30, 0.5),
    )
    music = rng.normal(size=(frames, 35)).astype(np.float32)
    return MotionSample(f"clip-{number:07d}", motion, music, ClipMeta(f"song-{number // 8:05d}", "dancer-0", 1.5))


def write_corpus(folder: Path, samples: int, shards: int, frames: int) -> Path:
    """A corpus of equal shards; above the first one they are its copies, for the index and the order do not care."""
    (folder / "train").mkdir(parents=True)
    per_shard = samples // shards
    distinct = [encode_members(sample(number, frames)) for number in range(16)]
    tar = io.BytesIO()
    with wds.TarWriter(tar, encoder=False, mtime=0) as writer:
        for number in range(per_shard):
            writer.write({"__key__": f"clip-{number:07d}", **distinct[number % 16]})
    content = tar.getvalue()
    first = folder / "train" / "000000.tar"
    first.write_bytes(content)
    for number in range(1, shards):
        path = folder / "train" / f"{number:06d}.tar"
        if frames == 1:
            os.link(first, path)
        else:
            path.write_bytes(content)
    normalizer = MinMaxNormalizer()
    normalizer.update(torch.zeros(1, 151))
    digest = hashlib.sha256(content).hexdigest()
    entries = tuple(ShardEntry(f"train/{n:06d}.tar", per_shard, len(content), digest) for n in range(shards))
    info = SplitInfo(samples, samples * frames, ("song",), entries)
    parts = {"motion": normalizer.to_dict(), "music": normalizer.to_dict()}
    Manifest(30.0, "edge-151-zup", ("house",), {"train": info}, {}, parts, "benchmark", 0).save(folder)
    return folder


def our_batches(corpus: Path, workers: int) -> Batches:
    samples = MotionSamples(open_shards(corpus), cache_mb=0)
    order = GlobalOrder(samples.index.starts_S1, BATCH)
    windows = TrainingWindows(samples, order, WINDOW, ("house",))

    def batches() -> Iterator[Any]:
        loader = MotionLoader(windows, num_workers=workers, batch_sampler=ElasticBatchSampler(BATCH))
        yield from islice(iter(loader), order.samples_per_epoch // BATCH)
        loader.stop_workers()

    return batches


def webdataset_batches(corpus: Path, workers: int, own_decoder: bool) -> Batches:
    files = [str(path) for path in open_shards(corpus).files]

    def ours(members: dict[str, Any]) -> Any:
        key = members["__key__"]
        return cut_window(decode_sample(members, key, key, 30.0), 0, WINDOW, 0, 0)

    def theirs(members: dict[str, Any]) -> Any:
        motion = Motion.__new__(Motion)
        for name, value in (("poses", members["poses.npy"]), ("trans", members["trans.npy"])):
            object.__setattr__(motion, name, value)
        return cut_window(MotionSample(members["__key__"], motion, members["music.npy"], ClipMeta("")), 0, WINDOW, 0, 0)

    def batches() -> Iterator[Any]:
        data = wds.WebDataset(files, shardshuffle=False, empty_check=False)
        data = data.decode().map(theirs) if own_decoder else data.map(ours)
        data = data.batched(BATCH, collation_fn=collate, partial=False)
        yield from DataLoader(data, batch_size=None, num_workers=workers)

    return batches


def rate(batches: Batches) -> float:
    """Samples a second, from the first batch on: the workers' start is not reading."""
    stream = batches()
    next(stream)
    started, count = time.perf_counter(), 0
    for batch in stream:
        count += len(batch["keys"])
    return count / (time.perf_counter() - started)


def throughput(corpus: Path, rounds: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for workers in (0, 2):
        sides = {
            "ours": our_batches(corpus, workers),
            "webdataset": webdataset_batches(corpus, workers, own_decoder=False),
            "webdataset, own decoder": webdataset_batches(corpus, workers, own_decoder=True),
        }
        best = dict.fromkeys(sides, 0.0)
        for _ in range(rounds):
            for name, side in sides.items():
                best[name] = max(best[name], rate(side))
        found[f"{workers} workers"] = best
    return found


def resume(folder: Path) -> dict[str, float]:
    """Cold and warm index, and the time to the first batch at 90% of an epoch."""
    corpus = write_corpus(folder, RESUME_SAMPLES, RESUME_SHARDS, frames=1)
    started = time.perf_counter()
    index = open_shards(corpus).index()
    cold_s = time.perf_counter() - started
    started = time.perf_counter()
    data = MotionDataModule(str(corpus), global_batch_size=64, window_frames=WINDOW)
    data.start_position = int(data.samples_per_epoch * 0.9) // 64 * 64
    batch = next(iter(data.train_dataloader()))
    resume_s = time.perf_counter() - started
    assert int(batch["position"][0]) == data.start_position
    per_sample = index.nbytes / len(index)
    order = GlobalOrder(np.arange(0, 10**8 + 1, 10**4, dtype=np.int64), 1024)
    order.sample_at(90_000_000)
    return {
        "cold_index_s": cold_s,
        "resume_s": resume_s,
        "index_bytes_per_sample": per_sample,
        "order_bytes_at_1e8": float(order.nbytes),
        "total_gb_at_1e8": (per_sample * 1e8 + order.nbytes) / 1e9,
    }


def measure(samples: int, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MACEDANCE_CACHE"] = str(Path(folder) / "cache")
        corpus = write_corpus(Path(folder) / "clips", samples, samples // PER_SHARD, FRAMES)
        size = sum(path.stat().st_size for path in (corpus / "train").glob("*.tar")) / samples
        rates = throughput(corpus, rounds)
        resumed = resume(Path(folder) / "many")
    ratios = {setting: row["ours"] / row["webdataset"] for setting, row in rates.items()}
    met = {
        "throughput": min(ratios.values()) >= TARGETS["throughput"],
        "resume": resumed["resume_s"] < TARGETS["resume_s"],
        "index": resumed["index_bytes_per_sample"] < TARGETS["index_bytes"],
    }
    return {"bytes_per_sample": size, "samples_per_s": rates, "ratio": ratios, **resumed, "met": met}


def report(result: dict[str, Any]) -> None:
    print(f"samples of {result['bytes_per_sample'] / 1e3:.0f} kB, batches of {BATCH} windows, page cache; samples/s")
    for setting, row in result["samples_per_s"].items():
        cells = ", ".join(f"{name} {value:.0f}" for name, value in row.items())
        own = row["ours"] / row["webdataset, own decoder"]
        print(f"  {setting}: {cells}; ours/webdataset {result['ratio'][setting]:.2f} (own decoder {own:.2f})")
    print(f"cold index of 10^5 samples: {result['cold_index_s']:.2f} s")
    print(f"resume at 90% of an epoch of 10^5 samples, to the first batch: {result['resume_s']:.2f} s")
    print(
        f"index: {result['index_bytes_per_sample']:.1f} bytes a sample; for 10^8 samples "
        f"{result['total_gb_at_1e8']:.2f} GB with the order's {result['order_bytes_at_1e8'] / 1e6:.2f} MB"
    )
    for name, met in result["met"].items():
        print(f"{name}: {'met' if met else 'MISSED'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    result = measure(options.samples, options.rounds)
    report(result)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if all(result["met"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
