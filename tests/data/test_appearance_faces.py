"""Face videos of clips: from the corpus to the network's conditions, as pixels and beside latents."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from small_clips import FPS, FRAMES, clip, frame_of, members, pictures, tiny_encoders, write_clips

from datamodules.appearance import AppearanceDataModule
from datamodules.appearance_corpora import AppearanceWriter
from datamodules.appearance_encoding import EncodeSettings, encode_corpus
from datamodules.streams.windows import MotionLoader
from macedance.appearance_data.media import encode_mp4
from macedance.appearance_data.samples import raw_clip, raw_members
from macedance.appearance_data.windows import Bucket, read_window
from macedance.diffusion.flow_matching import draw_flow
from macedance.errors import ConfigError, DataError
from macedance.models.appearance_expert.encoders import AppearanceEncoders
from macedance.models.appearance_expert.training import encode_batch, training_conditions

SIZE = 16
SETTINGS = EncodeSettings(frames=FRAMES, precision="float32")
#: Numbers of the clips that have none.
FACELESS = (1, 4)


def face_file(frames: int = 9, height: int = 24, width: int = 24) -> bytes:
    return encode_mp4(pictures(0, frames, height, width), FPS)


def with_face(number: int, face: bytes) -> dict[str, bytes]:
    facts = clip(number, song=f"s-{number}", person=f"p-{number}")
    return {**members(number, facts), "face.mp4": face}


def write_faces(folder: Path, damaged: int | None = None) -> Path:
    with AppearanceWriter(folder, fps=FPS, clips_per_shard=4) as writer:
        for number in range(6):
            facts = clip(number, song=f"s-{number}", person=f"p-{number}")
            parts = with_face(number, face_file()[:900] if number == damaged else face_file())
            if number in FACELESS:
                del parts["face.mp4"]
            writer.add("train" if number < 5 else "val", f"c-{number}", facts, parts)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces") / "corpus")


@pytest.fixture(scope="module")
def encoders() -> AppearanceEncoders:
    return tiny_encoders()


@pytest.fixture(scope="module")
def latents(clips: Path, encoders: AppearanceEncoders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents") / "corpus"
    assert encode_corpus(clips, out, encoders, SETTINGS).missing == 0
    return out


def data_module(folder: Path, **options: Any) -> AppearanceDataModule:
    return AppearanceDataModule(str(folder), **{"global_batch_size": 5, "face_size": SIZE} | options)


def shown(face: torch.Tensor) -> list[int]:
    """Which frames of the clip a face video (3, T, S, S) shows."""
    return [frame_of((float(picture.mean()) + 1) * 127.5) for picture in face.transpose(0, 1)]


def test_a_window_shows_the_face_of_its_own_frames() -> None:
    facts, video = clip(0), members(0, clip(0))["video.mp4"]
    points = raw_clip(members(0, facts), "k", "w").keypoints_TK3
    read = raw_clip(raw_members(facts, video, keypoints_TK3=points, face=face_file()), "k", "w")
    face = read_window(read, 2, Bucket(32, 32), 5, 8, SIZE).face_TSS3
    assert face is not None
    assert face.shape == (5, SIZE, SIZE, 3)
    assert [frame_of(picture) for picture in face] == [2, 3, 4, 5, 6]
    assert read_window(read, 2, Bucket(32, 32), 5, 8).face_TSS3 is None
    assert read_window(replace(read, face=None), 2, Bucket(32, 32), 5, 8, SIZE).face_TSS3 is None


@pytest.mark.parametrize(
    ("face", "told"),
    [
        (face_file(8), "the video has 8 frames"),
        (face_file(9, 24, 32), "face.mp4 has 32 x 24 pixels"),
        (b"x", "the video cannot be decoded"),
    ],
)
def test_a_face_video_that_is_not_the_clips_is_refused(face: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_window(raw_clip(with_face(0, face), "k", "w"), 0, Bucket(32, 32), 5, 8, SIZE)


def test_batches_hold_faces_and_blank_ones_for_clips_without(clips: Path, tmp_path: Path) -> None:
    batch = next(iter(data_module(clips, frames=FRAMES).train_dataloader()))
    assert batch["face_video"].shape == (5, 3, FRAMES, SIZE, SIZE)
    for key, video, face in zip(batch["keys"], batch["video"], batch["face_video"], strict=True):
        if int(key[-1]) in FACELESS:
            assert (face == -1).all()
        else:
            assert shown(face)[0] == frame_of((float(video[:, 0].mean()) + 1) * 127.5)
    loader = data_module(clips, frames=FRAMES).val_dataloader()
    assert isinstance(loader, MotionLoader)
    held_out = next(iter(loader))
    assert shown(held_out["face_video"][0]) == list(range(FRAMES))
    assert "face_video" not in next(iter(data_module(clips, frames=FRAMES, face_size=None).train_dataloader()))
    without = write_clips(tmp_path / "without", 4, 1)
    assert "face_video" not in next(iter(data_module(without, frames=FRAMES, global_batch_size=4).train_dataloader()))
    with pytest.raises(ConfigError, match="face_size is 0"):
        data_module(clips, face_size=0)


def test_faces_beside_latents_are_those_of_pixels(clips: Path, latents: Path, encoders: AppearanceEncoders) -> None:
    ours, theirs = data_module(latents), data_module(clips, frames=FRAMES, random_windows=False)
    loaders = [(data.train_dataloader(), data.val_dataloader()) for data in (ours, theirs)]
    for encoded, raw in zip(*loaders, strict=True):
        for batch, pixels in islice(zip(encoded, raw, strict=False), 2):
            assert batch["keys"] == pixels["keys"]
            assert batch["face"].shape[2] == (FRAMES - 1) * 4 + 1
            assert torch.equal(batch["face"], encode_batch(pixels, encoders, 1)["face"])
    assert "face" not in next(iter(data_module(latents, face_size=None).train_dataloader()))


def test_later_windows_of_a_clip_have_their_own_faces(
    clips: Path, encoders: AppearanceEncoders, tmp_path: Path
) -> None:
    encode_corpus(clips, tmp_path / "o", encoders, replace(SETTINGS, windows=3))
    data = data_module(tmp_path / "o", global_batch_size=10)
    batch = next(iter(data.train_dataloader()))
    starts = {key: shown(face)[0] for key, face in zip(batch["keys"], batch["face"], strict=True)}
    assert [starts[f"c-0_w{number:03d}"] for number in range(2)] == [0, 2]


def test_a_damaged_face_is_found_when_the_corpus_is_encoded(encoders: AppearanceEncoders, tmp_path: Path) -> None:
    report = encode_corpus(write_faces(tmp_path / "c", damaged=2), tmp_path / "o", encoders, SETTINGS)
    assert list(report.left_out) == ["c-2"]


def test_training_shows_the_faces_and_blanks_the_dropped(latents: Path) -> None:
    batch = next(iter(data_module(latents).train_dataloader()))
    draws = draw_flow(1, batch["position"], (4, FRAMES + 1, 8, 8), 0.5, 0.5)
    assert draws.drop_B.any()
    told = training_conditions(batch, draws, SIZE)
    for row, dropped in enumerate(draws.drop_B.tolist()):
        expected = torch.full_like(batch["face"][row], -1.0) if dropped else batch["face"][row]
        assert torch.equal(told.face[row], expected)
    kept = [row for row, key in enumerate(batch["keys"]) if not draws.drop_B[row] and int(key[-1]) not in FACELESS]
    assert kept
    assert all((told.face[row] > -1).any() for row in kept)
    with pytest.raises(DataError, match=r"16 x 16 pixels.*--data\.face_size=32"):
        training_conditions(batch, draws, 32)
