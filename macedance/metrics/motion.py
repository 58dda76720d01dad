"""The metrics of generated dances, as a torchmetrics.Metric and as one call on two lists of clips.

Shapes: B clips of equal length, T frames, J = 24 joints. Metres, seconds.

A clip is reduced to a row of float64 features and to its beats when it comes in, so that the state is small,
concatenates over ranks, and a clip seen twice (padded or repeated by a sampler) is counted once by its id.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.conventions import SCALARS, Clip, Preset, points_of
from macedance.metrics.functional import plausibility as plausible
from macedance.metrics.gathered import GatheredMetric, first_of_each
from macedance.metrics.presets import CLEAN
from macedance.metrics.statistics import Entry as Entry
from macedance.metrics.statistics import check_resampling
from macedance.metrics.tables import ClipTable, Reporting, clip_values, entries
from macedance.motion.files import JointClip

T = TypeVar("T")

MIN_FRAMES = 4
#: Frames computed at once: enough to forget the cost of a call, few enough to stay in the processor's caches.
BLOCK_FRAMES = 1500

# Columns of the key of a row: clip id, 1 for the reference, the copy that distinguishes two rows of one id, song, and
# the window of the clip, LEFT_OUT for a clip that the preset does not look at.
_ID, _SET, _COPY, _SONG, _PART = range(5)
_LEFT_OUT = -1
_DANCE, _MUSIC = 0, 1


class MotionMetrics(GatheredMetric):
    """Distribution, beat, foot and smoothness metrics of generated dances against reference dances.

    Args:
        preset: Conventions: see macedance.metrics.presets.
        allow_small_n: Give Fréchet distances for fewer clips than features too; they are then biased upwards.
        extras: Also beat precision, coverage and F1, minima per second, bone variation and floor penetration.
        resamples: Resamples of the 95% bootstrap intervals (``ci95``); 0: none.
        floor_draws: Draws of the reference-against-reference floor (``floor`` of ``fid_k`` and ``fid_g``); 0: none.
        seed: Of resampling and draws.
        kwargs: As torchmetrics.Metric.

    ``update`` takes clips of either set, ``compute`` gives one entry for each key: ``fid_k fid_g div_k div_g bas
    bas_motion bas_shuffled foot_skating pfc pbc jerk`` and, but for the Fréchet distances, the reference's own with
    ``_reference``. PBC and jerk, which no convention fixes, are in seconds and metres whatever the preset.

    Right on any number of ranks, with uneven shares, ranks without a clip and padded duplicates.
    """

    keys: list[Tensor]
    rows: list[Tensor]
    beat_keys: list[Tensor]
    beat_times: list[Tensor]

    def __init__(
        self,
        preset: Preset = CLEAN,
        *,
        allow_small_n: bool = False,
        extras: bool = False,
        resamples: int = 0,
        floor_draws: int = 0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_resampling(resamples, floor_draws)
        self.preset = preset
        self.reporting = Reporting(allow_small_n, extras, resamples, floor_draws, seed)
        self.add_rows("keys", 5, dtype=torch.int64)
        self.add_rows("rows", preset.width + 1, dtype=torch.float64)
        self.add_rows("beat_keys", 2, dtype=torch.int64)
        self.add_rows("beat_times", dtype=torch.float64)

    def update(self, clips: Sequence[Clip], ids: Sequence[int] | None = None, *, reference: bool = False) -> None:
        """Take clips into account.

        Args:
            clips: Clips of any length from four frames and any frame rate, of the kind that the preset reads.
            ids: Integer of each clip, unique within its set over all ranks; a second clip of the same id is ignored.
                None numbers the clips of this set from 0 in the order in which they come in (one process only).
            reference: Whether these are reference clips or generated ones.

        Raises:
            DataError: Clips below four frames, or that the preset cannot read (all are listed), or as many ids as clips
                are not given.
        """
        clips = list(clips)
        if ids is None:
            seen = sum(int((keys[:, _SET] == int(reference)).sum()) for keys in self.keys)
            ids = range(seen, seen + len(clips))
        if len(ids) != len(clips):
            raise DataError(f"{len(ids)} ids for {len(clips)} clips", expected="one id for each clip")
        _check(clips, self.preset)
        if not clips:
            return
        # Each window is a clip of its own; a clip without any keeps one row, so that it can be counted.
        windows = [self.preset.window.cut(clip, reference=reference) for clip in clips]
        parts = [clip for cut in windows for clip in cut]
        rows, dances = _features(parts, self.preset)
        first_copy = self.new_copies(len(clips) + len(parts))
        keys, beat_keys, beat_times, used = [], [], [], []
        copy, row = first_copy, 0
        for number, clip, cut in zip(ids, clips, windows, strict=True):
            song = _song_key(clip)
            for part, window in enumerate(cut):
                keys.append([int(number), int(reference), copy, song, part])
                music = self.preset.beat.music_beats(window, len(points_of(window)))
                for kind, times in ((_DANCE, dances[row]), (_MUSIC, music)):
                    beat_keys.append(np.tile(np.array([[copy, kind]], dtype=np.int64), (len(times), 1)))
                    beat_times.append(times)
                used.append(rows[row])
                copy, row = copy + 1, row + 1
            if not cut:
                keys.append([int(number), int(reference), copy, song, _LEFT_OUT])
                used.append(torch.full((self.preset.width + 1,), float("nan"), dtype=torch.float64))
                copy += 1
        self.append_rows("keys", np.array(keys, dtype=np.int64))
        self.append_rows("rows", torch.stack(used))
        if beat_keys:
            self.append_rows("beat_keys", np.concatenate(beat_keys))
            self.append_rows("beat_times", np.concatenate(beat_times))

    def compute(self) -> dict[str, Entry]:
        """All entries; see the class. A number that cannot be given has ``"value": None`` and a ``"reason"``."""
        return entries(self._table(0), self._table(1), self.preset, self.reporting)

    def per_clip(self) -> dict[str, dict[int, float]]:
        """The values behind the means over clips: key -> id of the clip -> value, NaN where it has none.

        Keys as in ``compute``, the reference's with ``_reference``. A clip of several windows has their mean, one that
        the preset leaves out NaN; ``foot_skating`` is the mean of the feet. To be called on every rank: it gathers.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            return {
                f"{key}{suffix}": values
                for which, suffix in ((0, ""), (1, "_reference"))
                for key, values in self._by_id(self._table(which)).items()
            }

    def _by_id(self, table: ClipTable) -> dict[str, dict[int, float]]:
        rows: dict[int, list[int]] = {number: [] for number in sorted({*table.ids, *table.left_out_ids})}
        for row, number in enumerate(table.ids):
            rows[number].append(row)
        return {
            key: {number: _mean_of_present(values[of]) for number, of in rows.items()}
            for key, values in clip_values(table, self.preset, extras=self.reporting.extras).items()
        }

    def _table(self, which: int) -> ClipTable:
        """The clips of one set, in the order of their ids, each once."""
        keys, rows = self.rows_of("keys"), self.rows_of("rows")
        chosen = np.flatnonzero(keys[:, _SET] == which)
        chosen = chosen[first_of_each(keys[chosen][:, [_ID, _PART]])]
        left_out_ids = keys[chosen][keys[chosen, _PART] == _LEFT_OUT, _ID].tolist()
        chosen = chosen[keys[chosen, _PART] != _LEFT_OUT]
        keys, rows = keys[chosen], rows[chosen]
        beat_keys, beat_times = self.rows_of("beat_keys"), self.rows_of("beat_times")
        order = np.lexsort((beat_times, beat_keys[:, 1], beat_keys[:, 0]))
        beat_keys, beat_times = beat_keys[order], beat_times[order]

        def beats(kind: int) -> list[np.ndarray]:
            copies, times = beat_keys[beat_keys[:, 1] == kind, 0], beat_times[beat_keys[:, 1] == kind]
            low, high = (np.searchsorted(copies, keys[:, _COPY], side=side) for side in ("left", "right"))
            return [times[a:b] for a, b in zip(low, high, strict=True)]

        k, g = self.preset.kinetic_dims, self.preset.geometric_dims
        return ClipTable(
            kinetic=torch.from_numpy(rows[:, :k]),
            geometric=torch.from_numpy(rows[:, k : k + g]),
            scalars={name: rows[:, k + g + column] for column, name in enumerate(SCALARS)},
            dances=beats(_DANCE),
            music=beats(_MUSIC),
            songs=keys[:, _SONG].tolist(),
            extents=rows[:, -1],
            left_out=len(left_out_ids),
            ids=keys[:, _ID].tolist(),
            left_out_ids=left_out_ids,
        )


def evaluate_clips(
    generated: Sequence[Clip],
    reference: Sequence[Clip],
    *,
    preset: Preset = CLEAN,
    allow_small_n: bool = False,
    **reporting: Any,
) -> dict[str, Entry]:
    """All metrics of ``generated`` against ``reference``: see MotionMetrics, which also says what ``reporting`` takes.

    Raises:
        DataError: A clip below four frames, or of the wrong kind.
    """
    metrics = MotionMetrics(preset, allow_small_n=allow_small_n, sync_on_compute=False, **reporting)
    metrics.update(generated)
    metrics.update(reference, reference=True)
    return metrics.compute()


def per_clip_values(clips: Sequence[Clip], *, preset: Preset = CLEAN, extras: bool = True) -> dict[str, np.ndarray]:
    """The values (n,) behind the means over clips, in the order of the clips and NaN where one has none.

    For distributions and paired comparisons; ``foot_skating`` is (n, 2), the feet. A clip of several windows has as
    many rows, one that the preset leaves out has none.

    Raises:
        DataError: As MotionMetrics.update.
    """
    metrics = MotionMetrics(preset, sync_on_compute=False)
    metrics.update(clips)
    return clip_values(metrics._table(0), preset, extras=extras)


def check_plausibility(clips: Sequence[JointClip], *, floor_m: float = 0.0) -> dict[str, Entry]:
    """Worst clip in ``bone_length_variation`` (relative), ``floor_penetration_m`` and ``max_root_speed_m_s``."""
    joints = [(torch.from_numpy(clip.joints), clip.fps) for clip in clips]
    checks: dict[str, Callable[[Tensor, float], Tensor]] = {
        "bone_length_variation": lambda x, fps: plausible.bone_length_variation(x),
        "floor_penetration_m": lambda x, fps: plausible.floor_penetration_m(x, floor_m=floor_m),
        "max_root_speed_m_s": plausible.max_root_speed_m_s,
    }
    return {
        name: {"value": max((float(check(x, fps)) for x, fps in joints), default=None), "n": len(joints)}
        for name, check in checks.items()
    }


def _mean_of_present(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def _check(clips: Sequence[Clip], preset: Preset) -> None:
    short = [clip.name or "(unnamed)" for clip in clips if len(points_of(clip)) < MIN_FRAMES]
    if short:
        raise DataError(
            f"{len(short)} clips are too short to measure: {', '.join(short)}", expected=f"{MIN_FRAMES} frames"
        )
    errors = []
    for clip in clips:
        try:
            preset.check(clip)
        except DataError as error:
            errors.append(error)
    if len(errors) > 1:
        told = "; ".join(f"{error.what} at {error.where or '(unnamed)'}" for error in errors)
        raise DataError(f"{len(errors)} of {len(clips)} clips: {told}", expected=errors[0].expected)
    if errors:
        raise errors[0]


def in_blocks(members: Sequence[T], num_frames: int) -> list[Sequence[T]]:
    """Clips of ``num_frames`` frames in the portions in which they are measured."""
    size = max(1, BLOCK_FRAMES // num_frames)
    return [members[start : start + size] for start in range(0, len(members), size)]


def _features(clips: Sequence[Clip], preset: Preset) -> tuple[Tensor, list[np.ndarray]]:
    """Rows (n, width + 1) and motion beats of clips; those of equal length and frame rate are computed together."""
    groups: dict[tuple[int, float], list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        groups[len(points_of(clip)), clip.fps].append(index)
    rows = torch.zeros(len(clips), preset.width + 1, dtype=torch.float64)
    beats: list[np.ndarray] = [np.zeros(0)] * len(clips)
    for (num_frames, fps), members in ((key, block) for key, m in groups.items() for block in in_blocks(m, key[0])):
        points = torch.from_numpy(np.stack([preset.points(clips[i]) for i in members])).double()
        block = preset.measure(points, fps)
        rows[members, :-1] = torch.cat([block.kinetic, block.geometric, block.scalars], dim=-1)
        rows[members, -1] = preset.beat.end(num_frames, fps)
        for row, index in enumerate(members):
            beats[index] = block.beats[row]
    return rows, beats


def _song_key(clip: Clip) -> int:
    """A 63-bit number of the clip's song: by its name, or else by its beats, so that equal beats are one song."""
    if clip.song is not None:
        text = b"song:" + clip.song.encode("utf-8", "backslashreplace")
    elif clip.music_beats_s is not None:
        text = b"beats:" + np.round(clip.music_beats_s * 1000).astype(np.int64).tobytes()
    else:
        text = b"none"
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
