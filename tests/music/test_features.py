"""The 35 features equal librosa's, whole or in blocks, and are kept by content."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from macedance.demo.songs import SongSpec, make_song
from macedance.errors import DataError
from macedance.music import features
from macedance.music.audio import Audio
from macedance.music.beats import beat_times
from macedance.music.cache import cache_root
from macedance.music.features import BEATS, CHROMA, MFCC, MUSIC_DIM, music_features, num_frames, slice_features


@pytest.fixture(scope="module")
def song() -> Audio:
    made = make_song(SongSpec("test", "house", 122.0, 5, 14.3))
    return Audio(made.samples, made.sample_rate)


def direct_librosa(audio: Audio, fps: int) -> np.ndarray:
    """The recipe as its authors write it: whole signal, one librosa call a channel group."""
    import librosa

    rate = fps * 512
    y = librosa.resample(audio.samples, orig_sr=audio.sample_rate, target_sr=rate)
    slow = librosa.resample(audio.samples, orig_sr=audio.sample_rate, target_sr=22050)
    envelope = librosa.onset.onset_strength(y=y, sr=rate)
    mfcc = librosa.feature.mfcc(y=y, sr=rate, n_mfcc=20).T
    chroma = librosa.feature.chroma_cens(y=y, sr=rate, hop_length=512, n_chroma=12).T
    peaks = librosa.onset.onset_detect(onset_envelope=envelope, sr=rate, hop_length=512)
    start_bpm = librosa.feature.tempo(y=slow)[0]
    _, beats = librosa.beat.beat_track(
        onset_envelope=envelope, sr=rate, hop_length=512, start_bpm=start_bpm, tightness=100
    )
    hot = np.zeros((len(envelope), 2))
    hot[peaks, 0] = hot[beats, 1] = 1
    return np.concatenate([envelope[:, None], mfcc, chroma, hot], axis=1)


@pytest.mark.parametrize("fps", [30, 60])
def test_features_equal_a_direct_librosa_computation(song: Audio, fps: int) -> None:
    found, expected = music_features(song, fps), direct_librosa(song, fps)
    assert found.dtype == np.float32
    assert found.shape == (num_frames(song.duration_s, fps), MUSIC_DIM)
    assert 0 <= len(expected) - len(found) <= 1
    expected = expected[: len(found)]
    np.testing.assert_allclose(found[:, :21], expected[:, :21], atol=2e-3, rtol=1e-4)
    np.testing.assert_allclose(found[:, CHROMA], expected[:, CHROMA], atol=1e-4)
    np.testing.assert_array_equal(found[:, 33:], expected[:, 33:])
    assert found[:, 33].sum() > 15
    assert found[:, 34].sum() > 15


def test_features_of_a_long_song_in_blocks_equal_those_in_one_piece(
    song: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = music_features(song)
    monkeypatch.setattr(features, "_BLOCK_FRAMES", 150)
    blocks = music_features(song)
    np.testing.assert_allclose(blocks[:, :21], whole[:, :21], atol=2e-3, rtol=1e-4)
    np.testing.assert_array_equal(blocks[:, 33:], whole[:, 33:])
    # Chroma energies are quantised: a value on a step's edge may fall to either side.
    apart = np.abs(blocks[:, CHROMA] - whole[:, CHROMA])
    assert apart.max() < 0.05
    assert (apart > 1e-4).mean() < 0.01


def test_blocks_without_enough_context_would_be_noticed(song: Audio, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = music_features(song)
    monkeypatch.setattr(features, "_BLOCK_FRAMES", 150)
    monkeypatch.setattr(features, "_CONTEXT_S", 0.0)
    assert np.abs(music_features(song)[:, CHROMA] - whole[:, CHROMA]).max() > 0.05


@pytest.mark.parametrize(
    ("duration_s", "fps", "frames"),
    [(5.0, 30, 150), (5.016, 30, 150), (5.017, 30, 151), (0.001, 30, 1), (61.46, 60, 3688)],
)
def test_num_frames_rounds_half_up(duration_s: float, fps: float, frames: int) -> None:
    assert num_frames(duration_s, fps) == frames
    assert abs(frames / fps - duration_s) <= max(0.5 / fps + 1e-9, 1 / fps - duration_s)


def test_features_of_the_shortest_sound_are_finite_and_silent_librosa(recwarn: pytest.WarningsRecorder) -> None:
    t = np.arange(8000) / 16000
    found = music_features(Audio(np.sin(2 * np.pi * 440 * t).astype(np.float32), 16000))
    assert found.shape == (15, MUSIC_DIM)
    assert np.isfinite(found).all()
    assert [w for w in recwarn if issubclass(w.category, UserWarning)] == []
    constant = music_features(Audio(np.full(16000, 0.5, np.float32), 16000))
    assert np.isfinite(constant).all()
    assert constant[:, BEATS].sum() <= 2


def test_features_refuse_a_frame_rate_without_a_whole_hop(song: Audio) -> None:
    for fps in (0, -30, 29.97, 1):
        with pytest.raises(DataError, match="frames per second"):
            music_features(song, fps)


def test_slice_features_returns_the_song_s_rows_padded_with_zeros(song: Audio) -> None:
    whole = music_features(song)
    np.testing.assert_array_equal(slice_features(whole, 30, 2.0, 5.0), whole[60:210])
    beyond = slice_features(whole, 30, 12.0, 5.0)
    assert beyond.shape == (150, MUSIC_DIM)
    np.testing.assert_array_equal(beyond[: len(whole) - 360], whole[360:])
    assert not beyond[len(whole) - 360 :].any()
    with pytest.raises(DataError):
        slice_features(whole, 30, -1.0, 5.0)


def test_features_of_a_part_follow_the_part_not_the_song(song: Audio) -> None:
    part = music_features(song.slice(4.0, 9.0))
    assert part.shape == (150, MUSIC_DIM)
    whole = slice_features(music_features(song), 30, 4.0, 5.0)
    # Cepstra depend on the 2048 samples around a frame, so the inside agrees; the chroma's filters reach further.
    np.testing.assert_allclose(part[4:-4, MFCC], whole[4:-4, MFCC], atol=0.5)


def test_beat_times_are_the_beat_channel_in_seconds(song: Audio) -> None:
    found = beat_times(song)
    np.testing.assert_allclose(found, np.flatnonzero(music_features(song)[:, 34]) / 30)
    assert np.median(np.diff(found)) == pytest.approx(60 / 122, rel=0.07)


def test_file_features_are_computed_once_and_again_when_damaged(
    song: Audio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept = tmp_path / "song.flac", tmp_path / "kept"
    soundfile.write(path, song.samples[: 4 * song.sample_rate], song.sample_rate)
    first = music_features(path, cache_dir=kept)
    (entry,) = kept.iterdir()
    copy = tmp_path / "another name.flac"
    copy.write_bytes(path.read_bytes())

    def never(*_: object) -> np.ndarray:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(features, "_compute", never)
        np.testing.assert_array_equal(music_features(copy, cache_dir=kept), first)
        with pytest.raises(AssertionError, match="again"):
            music_features(path, 60, cache_dir=kept)
    for damage in (b"", b"\x93NUMPY garbage", entry.read_bytes()[:-100]):
        entry.write_bytes(damage)
        np.testing.assert_array_equal(music_features(path, cache_dir=kept), first)
        np.testing.assert_array_equal(np.load(entry), first)
    np.save(entry, np.zeros((3, 2), np.float32))
    np.testing.assert_array_equal(music_features(path, cache_dir=kept), first)
    assert list(kept.iterdir()) == [entry]


def test_cache_entry_with_a_pickle_is_never_executed(song: Audio, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (ran,)

    audio = Audio(song.samples[: 2 * song.sample_rate], song.sample_rate)
    first = music_features(audio, cache_dir=tmp_path / "kept")
    (entry,) = (tmp_path / "kept").iterdir()
    np.save(entry, np.array([Hostile()], dtype=object), allow_pickle=True)
    np.testing.assert_array_equal(music_features(audio, cache_dir=tmp_path / "kept"), first)
    assert not ran.exists()


def test_files_are_cached_in_the_chosen_root_and_memory_is_not(
    song: Audio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACEDANCE_CACHE", str(tmp_path / "root"))
    assert cache_root() == tmp_path / "root"
    audio = Audio(song.samples[: 2 * song.sample_rate], song.sample_rate)
    music_features(audio)
    assert not (tmp_path / "root").exists()
    soundfile.write(tmp_path / "song.wav", audio.samples, audio.sample_rate)
    music_features(tmp_path / "song.wav")
    assert len(list((tmp_path / "root" / "music").iterdir())) == 1


def test_a_cache_folder_that_cannot_be_written_costs_nothing_but_reuse(song: Audio, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    audio = Audio(song.samples[: 2 * song.sample_rate], song.sample_rate)
    assert len(music_features(audio, cache_dir=tmp_path / "file" / "kept")) == 60


def test_missing_song_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        music_features(tmp_path / "absent.wav", cache_dir=tmp_path)
    with pytest.raises(DataError, match="folder"):
        music_features(tmp_path, cache_dir=tmp_path)


def test_import_does_not_load_librosa() -> None:
    import subprocess
    import sys

    code = "import sys, macedance.music.features, macedance.music.beats; print('librosa' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_warnings_of_others_are_left_alone(song: Audio) -> None:
    music_features(Audio(song.samples[:32000], song.sample_rate))
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", UserWarning, stacklevel=1)
