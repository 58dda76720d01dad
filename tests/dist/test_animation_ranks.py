"""Animation metrics of two ranks: uneven shares, padded duplicates, a rank without a clip; as one process gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from macedance.metrics.animation.bundle import AnimationMetrics, Judges
from macedance.metrics.animation.fvd import StreamedVideoDistance
from macedance.metrics.animation.presets import AnimationPreset
from macedance.metrics.animation.video_sets import Reporting
from macedance.metrics.animation.windows import WindowSampling
from macedance.vision.video import Video
from macedance.vision.video_network import FrameFit, VideoNetwork

PRESET = AnimationPreset("small", FrameFit(size=16), ddof=1)
#: Shares of seven clips: uneven with a duplicate on both ranks; everything on rank 0.
SHARES = [[[0, 2, 4, 6, 0], [1, 3, 5]], [[0, 1, 2, 3, 4, 5, 6], []]]


class Moments(nn.Module):
    def forward(self, clips_NCTHW: Tensor) -> Tensor:
        return torch.cat([clips_NCTHW.mean(dim=(2, 3, 4)), clips_NCTHW.std(dim=(2, 3, 4))], dim=1)


def videos(clip: int) -> tuple[Video, Video]:
    """A generated and a true video; those of clip 4 are too short for a window."""
    generator = np.random.default_rng(clip)
    frames = generator.integers(0, 256, (20 if clip == 4 else 34, 16, 16, 3), dtype=np.uint8)
    true = frames // 2 + clip * 10
    return Video.from_frames((true + frames % 9).astype(np.uint8), 30.0), Video.from_frames(true, 30.0)


def measured(shares: list[int]) -> list[Any]:
    network = VideoNetwork(Moments(), name="moments", fingerprint="0" * 64, num_features=6)
    metrics = AnimationMetrics(
        Judges(network),
        presets=(PRESET,),
        sampling=WindowSampling(per_clip=3),
        reporting=Reporting(resamples=20, floor_draws=2, allow_small_n=True),
    )
    streamed = StreamedVideoDistance(network, PRESET)
    for clip in shares:
        metrics.update_pair(*videos(clip), clip)
    for clip in dict.fromkeys(shares):
        for real, video in enumerate(videos(clip)):
            streamed.update(video, clip, real=bool(real))
    short = [metrics.too_short(real=real) for real in (False, True)]
    found = [metrics.compute(), metrics.per_clip(), short, streamed.compute()["fvd"]["n"]]
    return json.loads(json.dumps([*found, streamed.compute()["fvd"]["value"]], sort_keys=True))


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = [measured(shares[rank]) for shares in SHARES]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


def test_two_ranks_give_what_one_process_gives(tmp_path: Path) -> None:
    expected = measured(list(range(7)))
    assert expected[0]["small"]["fvd"]["n"] == 18
    assert expected[2] == [[4], [4]]
    torch.multiprocessing.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        for found in json.loads((tmp_path / f"{rank}.json").read_text()):
            assert found[:4] == expected[:4]
            # Sums over ranks are added up in another order.
            assert found[4] == pytest.approx(expected[4], rel=1e-6)
