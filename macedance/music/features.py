"""The 35 librosa features that EDGE, FineDance, LODGE, FlowerDance and MACE-Dance read (recipe of their released code).

Shapes: T frames, F frequency bins. The sound is resampled to ``fps * 512`` Hz, so that librosa's hop of 512 samples is
one motion frame. Channels: 0 onset envelope, 1..20 MFCC, 21..32 chroma CENS, 33 onset one-hot, 34 beat one-hot.

Songs of up to 4096 frames (136 s at 30 fps) go through librosa in one piece; longer ones in blocks, which bounds the
memory. Everything but the chroma is the same number either way; the constant-Q transform of a block sees four seconds
beyond each end, enough for its longest filter (1.6 s).
"""

from __future__ import annotations

import functools
import math
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from macedance.compiled import first_compilation, protect_numba_cache
from macedance.errors import DataError
from macedance.music.audio import Audio, load_audio
from macedance.music.cache import cache_root, cached_array, content_hash

MUSIC_DIM = 35
ONSET_ENVELOPE = slice(0, 1)
MFCC = slice(1, 21)
CHROMA = slice(21, 33)
ONSETS = slice(33, 34)
BEATS = slice(34, 35)

HOP = 512
RECIPE_VERSION = 1
"""Part of the cache key: raise it when a number changes."""

_N_FFT = 2048
_BLOCK_FRAMES = 4096
_CONTEXT_S = 4.0
_TEMPO_RATE_HZ = 22050
_BINS_PER_OCTAVE = 36
_OCTAVES = 7
_TIGHTNESS = 100

Floats = NDArray[np.float32]


def num_frames(duration_s: float, fps: float) -> int:
    """Frames of a feature array or a motion for a sound: ``duration_s * fps`` rounded half up, at least 1.

    Frame i is the instant ``i / fps``; the frames last as long as the sound within half a frame.
    """
    return max(1, math.floor(duration_s * fps + 0.5))


def music_features(audio: Audio | str | Path, fps: float = 30, *, cache_dir: Path | None = None) -> Floats:
    """The features of a whole sound.

    The beats and the tempo behind them depend on everything that is given: for the features of a part either give that
    part (EDGE: ``music_features(audio.slice(10, 15))``) or cut the whole song's (LODGE, FineDance:
    :func:`slice_features`).

    Args:
        audio: A sound in memory, or a file.
        fps: Frames per second; ``fps * 512`` must be a whole number (30 and 60 are).
        cache_dir: Folder of kept features. A file's are kept in ``cache_root() / "music"`` by default; those of a sound
            in memory only where a folder is given.

    Returns:
        (T, 35) float32, T = :func:`num_frames` of the sound.

    Raises:
        DataError: The file cannot be used (see :func:`macedance.music.audio.load_audio`), or the frame rate.
    """
    if not (fps > 0 and float(fps * HOP).is_integer() and 8000 <= fps * HOP <= 192_000):
        raise DataError(f"{fps} frames per second", expected="30 or 60 (fps x 512 a whole sample rate of 8 to 192 kHz)")
    labels = ("music", RECIPE_VERSION, version("librosa"), float(fps))
    if isinstance(audio, Audio):
        if cache_dir is None:
            return _compute(audio, fps)
        key = content_hash(audio.samples, *labels, audio.sample_rate)
        frames = num_frames(audio.duration_s, fps)
        return cached_array(cache_dir, key, lambda: _compute(audio, fps), lambda kept: _looks_right(kept, frames))
    path = Path(audio)
    folder = cache_root() / "music" if cache_dir is None else cache_dir
    if not path.is_file():
        load_audio(path)  # raises: missing, or a folder
    return cached_array(
        folder,
        content_hash(path, *labels),
        lambda: _compute(load_audio(path), fps),
        lambda kept: _looks_right(kept, None),
    )


def slice_features(features_TC: Floats, fps: float, start_s: float, duration_s: float) -> Floats:
    """The rows of a part of a song, zeros beyond its end.

    Args:
        features_TC: (T, 35) of the whole song.
        fps: Their frames per second.
        start_s: Start of the part, 0 or more seconds, rounded to the nearest frame.
        duration_s: Its length; the result has ``num_frames(duration_s, fps)`` rows.
    """
    if start_s < 0 or duration_s <= 0:
        raise DataError(
            f"part from {start_s} s of {duration_s} s", expected="a start of 0 or more and a length above 0"
        )
    start, frames = math.floor(start_s * fps + 0.5), num_frames(duration_s, fps)
    part = features_TC[start : start + frames]
    return np.pad(part, ((0, frames - len(part)), (0, 0)))


def _looks_right(kept: Floats, frames: int | None) -> bool:
    right_shape = kept.ndim == 2 and kept.shape[1] == MUSIC_DIM and len(kept) > 0
    return right_shape and (frames is None or len(kept) == frames) and bool(np.isfinite(kept).all())


@functools.cache
def warm_up() -> None:
    """Compile librosa's loops once per process, one process at a time; called before the first features.

    Who calls librosa's onsets, beats or pitches by other ways in several processes at once calls this first.
    """
    protect_numba_cache()
    with first_compilation():
        seconds = np.arange(2 * _TEMPO_RATE_HZ) / _TEMPO_RATE_HZ
        clicks = np.sin(2 * np.pi * 220 * seconds) * (seconds % 0.5 < 0.1)
        _features_of(Audio(clicks.astype(np.float32), _TEMPO_RATE_HZ), 30)


def _compute(audio: Audio, fps: float) -> Floats:
    warm_up()
    return _features_of(audio, fps)


def _features_of(audio: Audio, fps: float) -> Floats:
    import librosa

    frames = num_frames(audio.duration_s, fps)
    rate = round(fps * HOP)
    with warnings.catch_warnings():
        # librosa warns that a sound of half a second is shorter than its longest filters, and pads it.
        warnings.simplefilter("ignore", UserWarning)
        start_bpm = _tempo(_onset_strength(audio.resampled(_TEMPO_RATE_HZ)), _TEMPO_RATE_HZ, 120.0)
        sound = audio.resampled(rate)
        mel_FT, tuning = _mel_and_tuning(sound)
        decibels_FT = librosa.power_to_db(mel_FT)
        envelope_T = librosa.onset.onset_strength(S=decibels_FT, sr=rate)
        mfcc_CT = librosa.feature.mfcc(S=decibels_FT, sr=rate, n_mfcc=20)
        chroma_CT = _chroma_cens(sound, fps, tuning)
        onsets = librosa.onset.onset_detect(onset_envelope=envelope_T, sr=rate, hop_length=HOP)
        beats = _beats(envelope_T, rate, start_bpm)
    out_TC = np.zeros((max(frames, len(envelope_T)), MUSIC_DIM), dtype=np.float32)
    out_TC[: len(envelope_T), 0] = envelope_T
    out_TC[: mfcc_CT.shape[1], MFCC] = mfcc_CT.T
    out_TC[: chroma_CT.shape[1], CHROMA] = chroma_CT.T
    out_TC[onsets, ONSETS] = 1
    out_TC[beats, BEATS] = 1
    return out_TC[:frames]


def _spectrum_blocks(sound: Audio) -> list[tuple[int, int]]:
    """Blocks (first, last) of the centred frames that librosa.stft would give."""
    total = 1 + len(sound.samples) // HOP
    return [(first, min(first + _BLOCK_FRAMES, total)) for first in range(0, total, _BLOCK_FRAMES)]


def _magnitudes(sound: Audio, first: int, last: int) -> Floats:
    """(F, last - first) magnitudes of the centred frames first..last of the whole sound."""
    import librosa

    start, stop = first * HOP - _N_FFT // 2, (last - 1) * HOP + _N_FFT // 2
    part = sound.samples[max(0, start) : stop]
    padded = np.pad(part, (max(0, -start), stop - max(0, start) - len(part)))
    return np.abs(librosa.stft(padded, n_fft=_N_FFT, hop_length=HOP, center=False))


def _mel_and_tuning(sound: Audio) -> tuple[Floats, float]:
    """The mel power spectrogram (128, T) and the tuning in CQT bins, from one pass of Fourier transforms."""
    import librosa

    mel_blocks, pitches, strengths = [], [], []
    for first, last in _spectrum_blocks(sound):
        magnitude_FT = _magnitudes(sound, first, last)
        mel_blocks.append(librosa.feature.melspectrogram(S=magnitude_FT**2, sr=sound.sample_rate))
        pitch_FT, strength_FT = librosa.piptrack(S=magnitude_FT, sr=sound.sample_rate)
        found = pitch_FT > 0
        pitches.append(pitch_FT[found])
        strengths.append(strength_FT[found])
    pitch, strength = np.concatenate(pitches), np.concatenate(strengths)
    if len(pitch):
        # librosa.estimate_tuning: the louder half of the peaks votes.
        pitch = pitch[strength >= np.median(strength)]
    return np.concatenate(mel_blocks, axis=1), librosa.pitch_tuning(pitch, bins_per_octave=_BINS_PER_OCTAVE)


def _onset_strength(sound: Audio) -> Floats:
    import librosa

    mel_FT = np.concatenate(
        [
            librosa.feature.melspectrogram(S=_magnitudes(sound, first, last) ** 2, sr=sound.sample_rate)
            for first, last in _spectrum_blocks(sound)
        ],
        axis=1,
    )
    return librosa.onset.onset_strength(S=librosa.power_to_db(mel_FT), sr=sound.sample_rate)


def _tempo(envelope_T: Floats, rate: int, start_bpm: float) -> float:
    """librosa.feature.tempo, with the mean tempogram taken block by block."""
    import librosa

    width = int(librosa.time_to_frames(8.0, sr=rate, hop_length=HOP))
    padded = np.pad(envelope_T, width // 2, mode="linear_ramp", end_values=0)
    total_W = np.zeros(width)
    for first in range(0, len(envelope_T), _BLOCK_FRAMES):
        last = min(first + _BLOCK_FRAMES, len(envelope_T))
        tempogram_WT = librosa.feature.tempogram(
            onset_envelope=padded[first : last - 1 + width], sr=rate, hop_length=HOP, win_length=width, center=False
        )
        total_W += tempogram_WT[:, : last - first].sum(axis=1)
    mean_W1 = (total_W / len(envelope_T))[:, None]
    return float(librosa.feature.tempo(tg=mean_W1, sr=rate, hop_length=HOP, start_bpm=start_bpm)[0])


def _beats(envelope_T: Floats, rate: int, start_bpm: float) -> NDArray[np.intp]:
    import librosa

    if not envelope_T.any():
        return np.zeros(0, dtype=np.intp)
    bpm = _tempo(envelope_T, rate, start_bpm)
    _, frames = librosa.beat.beat_track(
        onset_envelope=envelope_T, sr=rate, hop_length=HOP, bpm=bpm, start_bpm=start_bpm, tightness=_TIGHTNESS
    )
    return np.asarray(frames, dtype=np.intp)


def _chroma_cens(sound: Audio, fps: float, tuning: float) -> Floats:
    import librosa

    context = math.ceil(_CONTEXT_S * fps)
    parts = []
    blocks = _spectrum_blocks(sound)
    for first, last in blocks:
        before = max(0, first - context)
        after = last + context
        samples = sound.samples if len(blocks) == 1 else sound.samples[before * HOP : after * HOP]
        constant_q_FT = librosa.cqt(
            samples,
            sr=sound.sample_rate,
            hop_length=HOP,
            n_bins=_OCTAVES * _BINS_PER_OCTAVE,
            bins_per_octave=_BINS_PER_OCTAVE,
            tuning=tuning,
        )
        parts.append(np.abs(constant_q_FT[:, first - before : last - before]))
    return librosa.feature.chroma_cens(
        C=np.concatenate(parts, axis=1), sr=sound.sample_rate, hop_length=HOP, n_octaves=_OCTAVES,
        bins_per_octave=_BINS_PER_OCTAVE,
    )  # fmt: skip
