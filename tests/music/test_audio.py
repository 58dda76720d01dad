"""Sound files: every format and rate is read, every kind of damage is one clear line."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from macedance.errors import DataError
from macedance.music.audio import Audio, load_audio, write_audio

RATE = 22050


def tune(seconds: float, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    beat = np.exp(-8 * (t % 0.5))
    return (0.5 * beat * np.sin(2 * np.pi * 330 * t) + 0.1 * np.sin(2 * np.pi * 110 * t)).astype(np.float32)


def encode(path: Path, samples: np.ndarray, rate: int, codec: str, container: str, **options: str) -> Path:
    import av

    with av.open(str(path), "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.layout = "mono"
        for start in range(0, len(samples), 1024):
            part = np.ascontiguousarray(samples[None, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return path


def cut(path: Path, share: float) -> Path:
    shorter = path.with_name(f"cut_{path.name}")
    raw = path.read_bytes()
    shorter.write_bytes(raw[: int(share * len(raw))])
    return shorter


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert error.value.exit_code == 2
    return text


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "PCM_32"), ("wav", "FLOAT"), ("wav", "PCM_U8"), ("flac", "PCM_16"),
     ("flac", "PCM_24"), ("aiff", "PCM_16")],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_load_reads_lossless_formats_at_their_own_rate(
    tmp_path: Path, suffix: str, subtype: str, channels: int
) -> None:
    sound = tune(1.2)
    gains = np.linspace(1, 0.5, channels)
    path = tmp_path / f"song.{suffix}"
    soundfile.write(path, sound[:, None] * gains, RATE, subtype=subtype)
    audio = load_audio(path)
    assert audio.sample_rate == RATE
    assert audio.samples.dtype == np.float32
    tolerance = 0.01 if subtype == "PCM_U8" else 1e-4
    np.testing.assert_allclose(audio.samples, sound * gains.mean(), atol=tolerance)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 96000])
def test_load_reads_every_rate_and_resamples_on_request(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "song.wav", tune(1.0, rate), rate)
    assert load_audio(tmp_path / "song.wav").sample_rate == rate
    resampled = load_audio(tmp_path / "song.wav", sample_rate=16000)
    assert resampled.sample_rate == 16000
    assert len(resampled.samples) == 16000
    np.testing.assert_allclose(resampled.samples[800:-800], tune(1.0, 16000)[800:-800], atol=0.05)


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [("a.mp3", "", ""), ("a.ogg", "", ""), ("a.opus", "", ""), ("a.m4a", "mp4", "aac"), ("a.aac", "adts", "aac"),
     ("a.mka", "matroska", "aac"), ("b.mp3", "mp3", "libmp3lame")],
)  # fmt: skip
def test_load_reads_lossy_formats_in_time(tmp_path: Path, name: str, container: str, codec: str) -> None:
    rate = 48000 if name == "a.opus" else 44100
    sound, path = tune(3.0, rate), tmp_path / name
    if container:
        encode(path, sound, rate, codec, container)
    elif name == "a.opus":
        soundfile.write(path, sound, rate, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, sound, rate)
    audio = load_audio(path)
    assert audio.sample_rate == rate
    assert abs(audio.duration_s - 3.0) < 0.06
    delay = 1024 if name == "a.aac" else 0  # a raw stream does not say that its first frame is priming
    same = np.corrcoef(audio.samples[delay : delay + 2 * rate], sound[: 2 * rate])[0, 1]
    assert same > 0.9
    part = load_audio(path, start_s=1.0, duration_s=0.75)
    np.testing.assert_array_equal(part.samples, audio.samples[rate : rate + round(0.75 * rate)])


def test_load_reads_a_part_as_the_whole_would_be_cut(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.flac", tune(20.0), RATE)
    whole = load_audio(tmp_path / "song.flac")
    part = load_audio(tmp_path / "song.flac", start_s=13.3, duration_s=2.5)
    np.testing.assert_array_equal(part.samples, whole.slice(13.3, 15.8).samples)
    assert load_audio(tmp_path / "song.flac", start_s=19.0, duration_s=5.0).duration_s == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "share"),
    [("a.wav", 0.5), ("a.wav", 0.95), ("a.aiff", 0.5), ("a.flac", 0.5), ("a.flac", 0.9), ("a.ogg", 0.5), ("a.mp3", 0.5),
     ("a.mp3", 0.9), ("a.m4a", 0.5), ("fast.m4a", 0.5), ("a.mka", 0.5)],
)  # fmt: skip
def test_load_refuses_a_truncated_file(tmp_path: Path, name: str, share: float) -> None:
    path, sound = tmp_path / name, tune(6.0, 44100)
    if name.endswith("m4a"):
        encode(path, sound, 44100, "aac", "mp4", **({"movflags": "faststart"} if name == "fast.m4a" else {}))
    elif name.endswith("mka"):
        encode(path, sound, 44100, "aac", "matroska")
    else:
        soundfile.write(path, sound, 44100)
    assert load_audio(path).duration_s == pytest.approx(6.0, abs=0.06)
    with pytest.raises(DataError, match=r"truncated|damaged") as error:
        load_audio(cut(path, share))
    assert f"cut_{name}" in one_line(error)


def test_load_accepts_a_wav_whose_header_was_never_completed(tmp_path: Path) -> None:
    path = tmp_path / "piped.wav"
    soundfile.write(path, tune(1.0), RATE)
    raw = bytearray(path.read_bytes())
    raw[4:8] = raw[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(raw))
    assert load_audio(path).duration_s == pytest.approx(1.0)


def test_load_refuses_what_is_no_sound(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(100_000)
    for name, content in {
        "text.wav": b"hello " * 500, "noise.mp3": noise, "noise.wav": noise, "zeros.flac": bytes(4096),
        "page.html": b"<html><body>not found</body></html>",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as error:
            load_audio(tmp_path / name)
        assert name in one_line(error)
    (tmp_path / "empty.mp3").write_bytes(b"")
    with pytest.raises(DataError, match="empty file"):
        load_audio(tmp_path / "empty.mp3")
    with pytest.raises(DataError, match="no such file"):
        load_audio(tmp_path / "absent.wav")
    with pytest.raises(DataError, match="folder"):
        load_audio(tmp_path)


def test_load_refuses_a_video_without_sound(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "mute.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=30)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
    with pytest.raises(DataError, match="not a sound file"):
        load_audio(tmp_path / "mute.mp4")


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [(tune(0.3), "0.300 s"), (np.zeros(RATE, np.float32), "silence"), (np.full(RATE, 5e-5, np.float32), "silence"),
     (np.where(np.arange(RATE) == 999, np.nan, tune(1.0)), "NaN"), (np.where(np.arange(RATE) == 5, np.inf, 0.1), "NaN"),
     (np.zeros(0, np.float32), "sound"), (np.full(RATE, 1e20), "full scale")],
    ids=["short", "silent", "nearly silent", "nan", "inf", "no samples", "absurd"],
)  # fmt: skip
def test_bad_sound_is_refused_in_files_and_arrays(tmp_path: Path, samples: np.ndarray, complaint: str) -> None:
    soundfile.write(tmp_path / "song.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=complaint) as error:
        load_audio(tmp_path / "song.wav")
    assert "song.wav" in one_line(error)
    with pytest.raises(DataError, match=complaint):
        Audio.from_array(samples, RATE)


@pytest.mark.parametrize(
    ("start_s", "duration_s"), [(-1.0, None), (0.0, 0.0), (0.0, -2.0), (float("nan"), None), (9, 1)]
)
def test_load_refuses_an_impossible_part(tmp_path: Path, start_s: float, duration_s: float | None) -> None:
    soundfile.write(tmp_path / "song.wav", tune(2.0), RATE)
    with pytest.raises(DataError):
        load_audio(tmp_path / "song.wav", start_s=start_s, duration_s=duration_s)


def test_arrays_of_integers_and_channels_become_mono_float() -> None:
    sound = tune(1.0)
    whole = np.round(sound * 32767).astype(np.int16)
    stereo = Audio.from_array(np.stack([whole, whole], axis=1), RATE)
    np.testing.assert_allclose(stereo.samples, sound, atol=1e-4)
    unsigned = (whole.astype(np.int32) + 32768).astype(np.uint16)
    np.testing.assert_allclose(Audio.from_array(unsigned, RATE).samples, sound, atol=1e-4)
    with pytest.raises(DataError, match="float32"):
        Audio(sound.astype(np.float64), RATE)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_write_then_load_returns_the_samples(tmp_path: Path, suffix: str) -> None:
    sound = tune(1.0)
    write_audio(tmp_path / f"song{suffix}", sound, RATE)
    assert os.listdir(tmp_path) == [f"song{suffix}"]
    np.testing.assert_allclose(load_audio(tmp_path / f"song{suffix}").samples, sound, atol=5e-5)


def test_write_refuses_what_it_cannot_keep(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"-1\.\.1"):
        write_audio(tmp_path / "a.wav", 1.5 * tune(1.0) / 0.5, RATE)
    with pytest.raises(DataError):
        write_audio(tmp_path / "a.wav", np.full(RATE, np.nan), RATE)
    with pytest.raises(DataError, match=r"\.wav or \.flac"):
        write_audio(tmp_path / "a.mp3", tune(1.0), RATE)
    with pytest.raises(DataError, match="cannot write"):
        write_audio(tmp_path / "absent" / "a.wav", tune(1.0), RATE)
    assert os.listdir(tmp_path) == []
