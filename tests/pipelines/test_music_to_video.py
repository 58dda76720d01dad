"""From a song and a picture to dance videos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_appearance as tiny

from macedance.errors import CheckpointError, ConfigError, DataError
from macedance.pipelines.motion_to_video import MotionToVideo
from macedance.pipelines.music_to_video import MusicToVideo, write_video
from macedance.rendering.probe import probe_video


@pytest.fixture(scope="module")
def both() -> MusicToVideo:
    return MusicToVideo(tiny.make_dancer(), MotionToVideo(*tiny.make_expert()))


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_song(tmp_path_factory.mktemp("music") / "song.wav")


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


MOTION = {"num_steps": 2, "genre": "house"}


def test_videos_are_as_long_as_the_song(both: MusicToVideo, song: Path, tmp_path: Path) -> None:
    options = {**MOTION, "num_dances": 2}
    told: list[tuple[int, int]] = []
    dances = list(both(song, picture(), motion_options=options, num_steps=1, progress=lambda a, b: told.append((a, b))))
    assert len(dances) == 2
    for dance in dances:
        assert abs(dance.motion.duration_s - 1.5) < 0.04
        assert dance.video.num_frames == dance.driving.num_frames == round(dance.motion.duration_s * 15)
        assert dance.motion.genre == "house"
    assert told[-1][0] == told[-1][1]
    one, two = (dance.video.frames() for dance in dances)
    assert not np.array_equal(one, two)
    again = next(both(song, picture(), motion_options=MOTION, num_steps=1))
    assert np.array_equal(again.video.frames(), one)
    other = next(both(song, picture(), seed=1, motion_options=MOTION, num_steps=1))
    assert not np.array_equal(other.video.frames(), one)
    facts = probe_video(write_video(tmp_path / "dance.mp4", dances[0].video, song))
    assert facts.num_frames == dances[0].video.num_frames
    assert abs(facts.duration_s - facts.audio_duration_s) < 0.04
    assert probe_video(write_video(tmp_path / "pose.mp4", dances[0].driving)).audio_codec is None


def test_two_dances_of_one_motion_have_noise_of_their_own(both: MusicToVideo) -> None:
    from tiny_appearance import make_dancer

    motion = make_dancer().generate(np.zeros((20, 35), dtype=np.float32), num_steps=1, genre="house")[0]
    videos = [both.motion_to_video(motion, picture(), num_steps=1, number=n).frames() for n in (0, 1, 0)]
    assert not np.array_equal(videos[0], videos[1])
    assert np.array_equal(videos[0], videos[2])


def test_a_saved_pair_does_the_same(both: MusicToVideo, song: Path, tmp_path: Path) -> None:
    folder = both.save_pretrained(tmp_path / "both")
    again = MusicToVideo.from_pretrained(folder)
    dances = [next(which(song, picture(), motion_options=MOTION, num_steps=1)) for which in (both, again)]
    assert np.array_equal(dances[0].video.frames(), dances[1].video.frames())
    with pytest.raises(ConfigError, match="exists"):
        both.save_pretrained(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        both.save_pretrained(tmp_path / "file" / "both")
    (folder / "config.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(CheckpointError, match="both experts"):
        MusicToVideo.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="configuration"):
        MusicToVideo.from_pretrained(tmp_path / "nothing")


def test_a_bad_picture_is_said_before_the_song_is_read(both: MusicToVideo, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"picture cannot be read .*me\.jpg"):
        next(both(tmp_path / "no song.wav", tmp_path / "me.jpg"))
    with pytest.raises(DataError, match="no song"):
        next(both(tmp_path / "no song.wav", picture()))
    with pytest.raises(ConfigError, match="genre"):
        next(both(tmp_path / "no song.wav", picture(), motion_options={"genre": "tango"}))
