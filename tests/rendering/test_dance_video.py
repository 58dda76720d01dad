from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from rendering_dances import make_dance, standing

from macedance.errors import ConfigError, DataError, DependencyError
from macedance.motion.files import Motion
from macedance.rendering import VideoWriter, codec_report, contact_sheet, probe_video, render_dance, video
from macedance.rendering.sound import SAMPLE_RATE

SIDE = 96


@dataclass
class Clicks:
    """Silence with a click at each given second."""

    samples: np.ndarray
    sample_rate: int

    @classmethod
    def at(cls, *times_s: float, length_s: float = 3.0, sample_rate: int = 22_050) -> Clicks:
        samples = np.zeros(int(length_s * sample_rate), np.float32)
        for time_s in times_s:
            start = int(time_s * sample_rate)
            samples[start : start + 40] = 0.9
        return cls(samples, sample_rate)


def heard(path: Path) -> np.ndarray:
    """What a player plays from time 0 on, mono."""
    with av.open(str(path)) as container:
        blocks = [frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)]
    return np.concatenate(blocks)


def seen(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def solid(shade: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), shade, np.uint8)


@pytest.mark.parametrize("backend", ["software", "egl"])
@pytest.mark.parametrize("fps", [30.0, 60.0])
def test_video_has_a_picture_for_each_frame_and_sound_of_the_same_length(
    tmp_path: Path, backend: str, fps: float
) -> None:
    if backend == "egl" and not video_by_egl():
        pytest.skip("no EGL context can be made")
    calls: list[tuple[int, int]] = []
    dance = make_dance(31)
    out = render_dance(
        dance, fps, tmp_path / "new" / "dance.mp4", music=Clicks.at(0.2), width=SIDE, height=128, backend=backend,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    facts = probe_video(out)
    assert (facts.num_frames, facts.fps, facts.width, facts.height) == (31, fps, SIDE, 128)
    assert (facts.video_codec, facts.audio_codec, facts.pixel_format) == ("h264", "aac", "yuv420p")
    assert facts.duration_s == pytest.approx(31 / fps)
    assert facts.audio_duration_s == pytest.approx(31 / fps, abs=0.002)
    assert facts.audio_start_s == 0.0
    assert facts.fast_start
    assert calls == [(done, 31) for done in range(1, 32)]
    assert [path.name for path in out.parent.iterdir()] == ["dance.mp4"]


def video_by_egl() -> bool:
    from macedance.rendering import gl_report

    return gl_report().available


@pytest.mark.parametrize(("fps", "frames"), [(23.976, 24), (29.97, 40), (12.5, 7)])
def test_odd_frame_rates_keep_picture_and_sound_together(tmp_path: Path, fps: float, frames: int) -> None:
    with VideoWriter(tmp_path / "v.mp4", fps, SIDE, SIDE, music=Clicks.at(0.1)) as writer:
        for _ in range(frames):
            writer.add(solid(90))
    facts = probe_video(tmp_path / "v.mp4")
    assert facts.num_frames == frames
    assert facts.fps == pytest.approx(fps, rel=1e-4)
    assert facts.audio_duration_s == pytest.approx(facts.duration_s, abs=0.003)


@pytest.mark.parametrize("sample_rate", [8_000, 44_100, 96_000])
def test_a_click_is_heard_when_its_picture_is_seen(tmp_path: Path, sample_rate: int) -> None:
    # The music's click at 1.7 s, in a dance that starts at second 1.2: half a second into the video.
    music = Clicks.at(1.7, sample_rate=sample_rate)
    with VideoWriter(tmp_path / "v.mp4", 30, SIDE, SIDE, music=music, music_start_s=1.2) as writer:
        for frame in range(45):
            writer.add(solid(230 if frame >= 15 else 20))
    sound, shades = heard(tmp_path / "v.mp4"), seen(tmp_path / "v.mp4").mean(axis=(1, 2, 3))
    assert np.argmax(np.abs(sound)) / SAMPLE_RATE == pytest.approx(0.5, abs=0.006)
    assert np.argmax(shades > 128) / 30 == pytest.approx(0.5)


def test_short_music_is_padded_with_silence_and_long_music_is_cut(tmp_path: Path) -> None:
    for length_s in (0.6, 30.0):
        with VideoWriter(tmp_path / "v.mp4", 30, SIDE, SIDE, music=Clicks.at(0.5, length_s=length_s)) as writer:
            for _ in range(60):
                writer.add(solid(60))
        assert probe_video(tmp_path / "v.mp4").audio_duration_s == pytest.approx(2.0, abs=0.002)
        sound = np.abs(heard(tmp_path / "v.mp4"))
        assert sound[int(0.45 * SAMPLE_RATE) : int(0.55 * SAMPLE_RATE)].max() > 0.3
        assert sound[SAMPLE_RATE : 2 * SAMPLE_RATE].max() < 0.01


def test_pictures_come_back_as_they_went_in(tmp_path: Path) -> None:
    colours = [(200, 40, 40), (40, 160, 60), (40, 60, 200)]
    with VideoWriter(tmp_path / "v.mp4", 10, SIDE, SIDE) as writer:
        for colour in colours:
            writer.add(np.broadcast_to(np.uint8(colour), (SIDE, SIDE, 3)))
    for picture, colour in zip(seen(tmp_path / "v.mp4"), colours, strict=True):
        np.testing.assert_allclose(picture.mean(axis=(0, 1)), colour, atol=12)
    assert probe_video(tmp_path / "v.mp4").audio_codec is None


def test_the_same_dance_gives_the_same_file(tmp_path: Path) -> None:
    dance, music = make_dance(5), Clicks.at(0.1)
    files = [
        render_dance(dance, 30, tmp_path / name, music=music, width=SIDE, height=SIDE, backend="software")
        for name in ("a.mp4", "b.mp4")
    ]
    np.testing.assert_array_equal(*[seen(file) for file in files])
    np.testing.assert_array_equal(*[heard(file) for file in files])


def test_an_error_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "dance.mp4"
    out.write_bytes(b"the old one")

    def stop(done: int, _: int) -> None:
        if done == 3:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        render_dance(make_dance(6), 30, out, width=SIDE, height=SIDE, backend="software", progress=stop)
    with pytest.raises(DataError, match="without frames"), VideoWriter(out, 30, SIDE, SIDE):
        pass
    with pytest.raises(DataError, match="does not fit"), VideoWriter(out, 30, SIDE, SIDE) as writer:
        writer.add(solid(3)[:-2])
    assert out.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [out]


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path: Path) -> None:
    dance, out = standing(2), tmp_path / "out" / "dance.mp4"
    bad = dance.joint_positions().copy()
    bad[1, 3, 0] = np.inf
    text = tmp_path / "song.wav"
    text.write_text("no music at all")
    cases: list[tuple[type[Exception], str, dict[str, object]]] = [
        (DataError, "not finite", {"dance": bad}),
        (DataError, "without frames", {"dance": bad[:0]}),
        (ConfigError, "width of 101", {"width": 101}),
        (ConfigError, "height of 0", {"height": 0}),
        (DataError, "frames per second", {"fps": 0.0}),
        (DataError, "frames per second", {"fps": float("nan")}),
        (DataError, "song.wav", {"music": text}),
        (DataError, "missing.wav", {"music": tmp_path / "missing.wav"}),
        (DataError, "second 5", {"music": Clicks.at(0.1), "music_start_s": 5.0}),
        (DataError, "0 or more", {"music": Clicks.at(0.1), "music_start_s": -1.0}),
        (ConfigError, "backend", {"backend": "crayon"}),
    ]
    for kind, message, change in cases:
        arguments = {"dance": dance, "fps": 30.0, "out": out, "width": SIDE, "height": SIDE, **change}
        with pytest.raises(kind, match=message):
            render_dance(**arguments)  # type: ignore[arg-type]
    assert not out.parent.exists()


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="folder"):
        render_dance(standing(2), 30, tmp_path / "file" / "dance.mp4", width=SIDE, height=SIDE, backend="software")
    with pytest.raises(DataError, match="write"):
        contact_sheet(standing(2), tmp_path / "file" / "sheet.png", size=SIDE, backend="software")


def test_missing_encoders_are_named_with_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert codec_report().available
    monkeypatch.setattr(video, "H264_ENCODERS", ("no_such_encoder",))
    with pytest.raises(DependencyError, match=r"h264 encoder.*fix: pip install"):
        render_dance(standing(2), 30, tmp_path / "dance.mp4")
    from macedance.rendering import probe

    monkeypatch.setattr(probe, "H264_ENCODERS", ("no_such_encoder",))
    report = codec_report()
    assert (report.h264, report.aac, report.available) == (None, "aac", False)
    assert "no_such_encoder" in report.reason


def test_probe_refuses_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"nothing that decodes")
    for name in ("x.mp4", "missing.mp4"):
        with pytest.raises(DataError, match=name):
            probe_video(tmp_path / name)


def test_contact_sheet_is_a_row_of_different_key_frames(tmp_path: Path, dance: Motion) -> None:
    path = contact_sheet(dance, tmp_path / "sheet.png", num=3, size=SIDE, backend="software")
    with av.open(str(path)) as container:
        image = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert image.shape == (SIDE, 3 * SIDE, 3)
    first, _, last = np.split(image, 3, axis=1)
    assert np.abs(first - last).max() > 60
    one = contact_sheet(dance.slice(0, 1), tmp_path / "one.png", num=8, size=SIDE, backend="software")
    with av.open(str(one)) as container:
        assert next(container.decode(video=0)).width == SIDE
    with pytest.raises(ConfigError, match="at least 1"):
        contact_sheet(dance, tmp_path / "none.png", num=0)


@pytest.mark.shared
def test_real_mocap_dances_to_a_real_song(shared_dir: Path, tmp_path: Path) -> None:
    from macedance.motion.retarget import load_bvh_motion

    motion = load_bvh_motion(shared_dir / "data/motion/cmu_131/131_01.bvh").slice(0, 40)
    song = shared_dir / "data/music/librosa_examples/vibe_ace.ogg"
    out = render_dance(motion, motion.fps, tmp_path / "v.mp4", music=song, music_start_s=8.0, width=SIDE, height=SIDE)
    facts = probe_video(out)
    assert facts.num_frames == 40
    assert facts.audio_duration_s == pytest.approx(40 / motion.fps, abs=0.002)
    with av.open(str(song)) as container:
        frames = container.decode(audio=0)
        whole = np.concatenate([next(frames).to_ndarray().mean(axis=0) for _ in range(1200)])
        rate = container.streams.audio[0].rate
    start = round(8.0 * rate)
    source = whole[start : start + round(40 / motion.fps * rate)]
    ours = np.interp(np.arange(len(source)) / rate, np.arange(len(heard(out))) / SAMPLE_RATE, heard(out))
    assert np.corrcoef(source, ours)[0, 1] > 0.9
