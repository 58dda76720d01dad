"""The metrics of generated dances, as a torchmetrics.Metric and as one call on two lists of clips.

Shapes: B clips of equal length, T frames, J = 24 joints. Metres, seconds.

A clip is reduced to a row of float64 features and to its beats when it comes in, so that the state is small,
concatenates over ranks, and a clip seen twice (padded or repeated by a sampler) is counted once by its id.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from macedance.errors import DataError
from macedance.metrics.functional import plausibility as plausible
from macedance.metrics.functional.beat import SMOOTHING_S as BEAT_SMOOTHING_S
from macedance.metrics.functional.beat import beat_alignment, mean_joint_speed, shuffled_alignment, speed_minima, within
from macedance.metrics.functional.foot import foot_skating_counts, physical_body_contact, physical_foot_contact
from macedance.metrics.functional.frechet import frechet_distance, mean_pairwise_distance
from macedance.metrics.functional.smoothness import mean_jerk
from macedance.metrics.presets import CLEAN, MotionPreset
from macedance.motion.files import JointClip

#: One number of an evaluation: "value" (None with a "reason" where there is none), "n", and what qualifies it.
Entry = dict[str, Any]
MIN_FRAMES = 4
#: Clips computed at once: enough to forget the cost of a call, few enough to stay in the processor's caches.
BLOCK = 32

# Columns behind the features in a row.
_SCALARS = ("sliding", "touching", "pfc", "pbc", "jerk", "duration_s")
# Columns of the key of a row: clip id, 1 for the reference, the copy that distinguishes two rows of one id, song.
_ID, _SET, _COPY, _SONG = range(4)
_DANCE, _MUSIC = 0, 1


class MotionMetrics(Metric):
    """Distribution, beat, foot and smoothness metrics of generated dances against reference dances.

    Args:
        preset: Conventions of the distribution metrics.
        allow_small_n: Give Fréchet distances for fewer clips than features too; they are then biased upwards.
        kwargs: As torchmetrics.Metric.

    ``update`` takes clips of either set, ``compute`` gives one entry for each key: ``fid_k fid_g div_k div_g bas
    bas_motion bas_shuffled foot_skating pfc pbc jerk`` and, but for the Fréchet distances, the reference's own with
    ``_reference``. All but the distribution metrics are in seconds and metres whatever the preset.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    keys: list[Tensor]
    rows: list[Tensor]
    beat_keys: list[Tensor]
    beat_times: list[Tensor]

    def __init__(self, preset: MotionPreset = CLEAN, *, allow_small_n: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.preset = preset
        self.allow_small_n = allow_small_n
        self._copies = 0
        for name in ("keys", "rows", "beat_keys", "beat_times"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @property
    def width(self) -> int:
        """Length of a row."""
        return self.preset.kinetic_dims + self.preset.geometric_dims + len(_SCALARS)

    def update(self, clips: Sequence[JointClip], ids: Sequence[int] | None = None, *, reference: bool = False) -> None:
        """Take clips into account.

        Args:
            clips: Clips of any length from four frames and any frame rate.
            ids: Integer of each clip, unique within its set over all ranks; a second clip of the same id is ignored.
                None numbers the clips of this set from 0 in the order in which they come in (one process only).
            reference: Whether these are reference clips or generated ones.

        Raises:
            DataError: A clip below four frames, or as many ids as clips are not given.
        """
        clips = list(clips)
        if ids is None:
            seen = sum(int((keys[:, _SET] == int(reference)).sum()) for keys in self.keys)
            ids = range(seen, seen + len(clips))
        if len(ids) != len(clips):
            raise DataError(f"{len(ids)} ids for {len(clips)} clips", expected="one id for each clip")
        short = [clip.name or "(unnamed)" for clip in clips if len(clip.joints) < MIN_FRAMES]
        if short:
            raise DataError(
                f"{len(short)} clips are too short to measure: {', '.join(short[:8])}", expected=f"{MIN_FRAMES} frames"
            )
        if not clips:
            return
        rows, dances = _features(clips, self.preset)
        first_copy = _rank() * 2**40 + self._copies
        self._copies += len(clips)
        keys = np.array(
            [[int(i), int(reference), first_copy + n, _song_key(clips[n])] for n, i in enumerate(ids)], dtype=np.int64
        )
        beat_keys, beat_times = [], []
        for n, clip in enumerate(clips):
            music = (
                np.zeros(0) if clip.music_beats_s is None else within(clip.music_beats_s, len(clip.joints) / clip.fps)
            )
            for kind, times in ((_DANCE, dances[n]), (_MUSIC, music)):
                beat_keys.append(np.tile(np.array([[first_copy + n, kind]], dtype=np.int64), (len(times), 1)))
                beat_times.append(times)
        self.keys.append(torch.from_numpy(keys).to(self.device))
        self.rows.append(rows.to(self.device))
        self.beat_keys.append(torch.from_numpy(np.concatenate(beat_keys)).to(self.device))
        self.beat_times.append(torch.from_numpy(np.concatenate(beat_times)).to(self.device))

    def compute(self) -> dict[str, Entry]:
        """All entries; see the class. A number that cannot be given has ``"value": None`` and a ``"reason"``."""
        generated, reference = self._table(0), self._table(1)
        result: dict[str, Entry] = {}
        for key, part in (("k", "kinetic"), ("g", "geometric")):
            result |= _distribution(
                key, getattr(generated, part), getattr(reference, part), self.preset, self.allow_small_n
            )
        result |= _clip_means(generated, "") | _clip_means(reference, "_reference")
        return result

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # A rank without a clip still takes part in every gather, with tensors of the right width and type: torchmetrics
        # would put in a one-dimensional float tensor and the gather of shapes would fail.
        empty = {
            "keys": torch.zeros(0, 4, dtype=torch.int64),
            "rows": torch.zeros(0, self.width, dtype=torch.float64),
            "beat_keys": torch.zeros(0, 2, dtype=torch.int64),
            "beat_times": torch.zeros(0, dtype=torch.float64),
        }
        for name, tensor in empty.items():
            if isinstance(getattr(self, name), list) and not getattr(self, name):
                setattr(self, name, [tensor.to(self.device)])
        super()._sync_dist(*args, **kwargs)

    def _table(self, which: int) -> _Table:
        """The clips of one set, in the order of their ids, each once."""
        keys = _joined(self.keys, np.zeros((0, 4), np.int64))
        rows = _joined(self.rows, np.zeros((0, self.width)))
        chosen = np.flatnonzero(keys[:, _SET] == which)
        # np.unique takes the first of equal ids.
        chosen = chosen[np.unique(keys[chosen, _ID], return_index=True)[1]]
        keys, rows = keys[chosen], rows[chosen]
        beat_keys = _joined(self.beat_keys, np.zeros((0, 2), np.int64))
        beat_times = _joined(self.beat_times, np.zeros(0))
        order = np.lexsort((beat_times, beat_keys[:, 1], beat_keys[:, 0]))
        beat_keys, beat_times = beat_keys[order], beat_times[order]

        def beats(kind: int) -> list[np.ndarray]:
            copies, times = beat_keys[beat_keys[:, 1] == kind, 0], beat_times[beat_keys[:, 1] == kind]
            low, high = (np.searchsorted(copies, keys[:, _COPY], side=side) for side in ("left", "right"))
            return [times[a:b] for a, b in zip(low, high, strict=True)]

        k, g = self.preset.kinetic_dims, self.preset.geometric_dims
        scalars = {name: rows[:, k + g + column] for column, name in enumerate(_SCALARS)}
        return _Table(
            kinetic=torch.from_numpy(rows[:, :k]),
            geometric=torch.from_numpy(rows[:, k : k + g]),
            scalars=scalars,
            dances=beats(_DANCE),
            music=beats(_MUSIC),
            songs=keys[:, _SONG].tolist(),
        )


def evaluate_clips(
    generated: Sequence[JointClip],
    reference: Sequence[JointClip],
    *,
    preset: MotionPreset = CLEAN,
    allow_small_n: bool = False,
) -> dict[str, Entry]:
    """All metrics of ``generated`` against ``reference``: see MotionMetrics.

    Raises:
        DataError: A clip below four frames.
    """
    metrics = MotionMetrics(preset, allow_small_n=allow_small_n, sync_on_compute=False)
    metrics.update(generated)
    metrics.update(reference, reference=True)
    return metrics.compute()


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


@dataclass(frozen=True)
class _Table:
    """What is known of the n clips of one set."""

    kinetic: Tensor
    geometric: Tensor
    scalars: dict[str, np.ndarray]
    dances: list[np.ndarray]
    music: list[np.ndarray]
    songs: list[int]


def _features(clips: Sequence[JointClip], preset: MotionPreset) -> tuple[Tensor, list[np.ndarray]]:
    """Rows (n, width) and motion beats of clips; those of equal length and frame rate are computed together."""
    groups: dict[tuple[int, float], list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        groups[len(clip.joints), clip.fps].append(index)
    rows: list[Tensor | None] = [None] * len(clips)
    beats: list[np.ndarray] = [np.zeros(0)] * len(clips)
    blocks = [(key, m[i : i + BLOCK]) for key, m in groups.items() for i in range(0, len(m), BLOCK)]
    for (num_frames, fps), members in blocks:
        joints = torch.from_numpy(np.stack([clips[i].joints for i in members])).double()
        sliding, touching = foot_skating_counts(joints, fps)
        pfc, pbc = physical_foot_contact(joints, fps), physical_body_contact(joints, fps)
        duration = torch.full_like(pfc, num_frames / fps)
        scalars = torch.stack([sliding, touching, pfc, pbc, mean_jerk(joints, fps), duration], dim=-1)
        block = torch.cat([preset.kinetic(joints, fps), preset.geometric(joints, fps), scalars], dim=-1)
        minima = speed_minima(mean_joint_speed(joints.numpy(), fps), BEAT_SMOOTHING_S * fps)
        for row, index in enumerate(members):
            rows[index] = block[row]
            beats[index] = (np.flatnonzero(minima[row]) + 0.5) / fps
    return torch.stack([row for row in rows if row is not None]), beats


def _distribution(key: str, x: Tensor, y: Tensor, preset: MotionPreset, allow_small_n: bool) -> dict[str, Entry]:
    """Entries fid_, div_ and div_..._reference of one kind of features, generated x and reference y."""
    n, m, dims = len(x), len(y), x.shape[1]
    fid: Entry = {"value": None, "n": n, "n_reference": m}
    div: Entry = {"value": None, "n": n}
    own: Entry = {"value": None, "n": m}
    result = {f"fid_{key}": fid, f"div_{key}": div, f"div_{key}_reference": own}
    if m < 2:
        for entry in result.values():
            entry["reason"] = f"{m} reference clips: features are standardised by at least 2"
        return result
    by_reference = preset.standardization(y)
    x, y = by_reference.apply(x), by_reference.apply(y)
    fid |= {"dims": dims, "dropped_dims": by_reference.num_dropped}
    own["value"] = mean_pairwise_distance(y)
    if n < 2:
        fid["reason"] = div["reason"] = f"{n} generated clips: at least 2 are needed"
        return result
    div["value"] = mean_pairwise_distance(x)
    if min(n, m) < dims and not allow_small_n:
        fid["reason"] = f"{min(n, m)} clips are fewer than the {dims} features: the distance would be mostly noise"
    else:
        fid["value"] = frechet_distance(x, y)
    return result


def _clip_means(table: _Table, suffix: str) -> dict[str, Entry]:
    """Entries that are means over the clips of one set."""
    scalars = table.scalars
    pairs = list(zip(table.music, table.dances, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        skating = scalars["sliding"] / scalars["touching"]
    no_music = "no music beats within the clip"
    # A dance without any minimum never comes to rest on a beat: 0, not left out.
    towards_music = [(beat_alignment(d, m) if d.size else 0.0) if m.size else np.nan for m, d in pairs]
    shuffled = shuffled_alignment(table.dances, table.music, table.songs, scalars["duration_s"].tolist())
    # The same clips as `bas`, so that the two can be subtracted.
    shuffled[[m.size == 0 for m, _ in pairs]] = np.nan
    return {
        f"bas{suffix}": _mean([beat_alignment(m, d) for m, d in pairs], no_music),
        f"bas_motion{suffix}": _mean(towards_music, no_music),
        f"bas_shuffled{suffix}": _mean(shuffled, "no music beats, or no other song"),
        f"foot_skating{suffix}": _mean(skating, "no foot touches the floor"),
        f"pfc{suffix}": _mean(scalars["pfc"], "no value"),
        f"pbc{suffix}": _mean(scalars["pbc"], "no value"),
        f"jerk{suffix}": _mean(scalars["jerk"], "no value"),
    }


def _mean(values: Sequence[float] | np.ndarray, why_missing: str) -> Entry:
    """Mean over the clips that have a value; those left out are counted with the reason."""
    array = np.asarray(values, dtype=np.float64)
    present = array[~np.isnan(array)]
    entry: Entry = {"value": float(present.mean()) if present.size else None, "n": int(present.size)}
    if present.size < array.size:
        entry |= {"left_out": int(array.size - present.size), "reason": why_missing}
    elif not array.size:
        entry["reason"] = "no clips"
    return entry


def _song_key(clip: JointClip) -> int:
    """A 63-bit number of the clip's song: by its name, or else by its beats, so that equal beats are one song."""
    if clip.song is not None:
        text = b"song:" + clip.song.encode()
    elif clip.music_beats_s is not None:
        text = b"beats:" + np.round(clip.music_beats_s * 1000).astype(np.int64).tobytes()
    else:
        text = b"none"
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def _rank() -> int:
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if initialized else 0


def _joined(state: list[Tensor] | Tensor, empty: np.ndarray) -> np.ndarray:
    """A list state, or what is left of it after a gather, as one array."""
    tensors = [state] if isinstance(state, Tensor) else state
    return torch.cat(list(tensors)).cpu().numpy() if len(tensors) else empty
