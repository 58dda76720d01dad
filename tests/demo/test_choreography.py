from __future__ import annotations

import dataclasses
import time
from functools import cache

import numpy as np
import pytest
import torch

from macedance.demo.choreography import Dancer, draw_dancer, make_dance, moves_by_genre, plan_phrases
from macedance.demo.moves import ARM_POSES, Foot, at
from macedance.demo.songs import GENRES, SAMPLE_RATE, Song, SongSpec, make_song, random_spec
from macedance.demo.tracks import Track, arm_rotation, movement_windows, slerp
from macedance.demo.vocabulary import DANCE_STYLES
from macedance.errors import ConfigError, DataError
from macedance.metrics.functional.beat import beat_alignment, motion_beats
from macedance.metrics.functional.foot import foot_skating
from macedance.metrics.functional.smoothness import mean_jerk
from macedance.motion.files import Motion
from macedance.motion.skeleton import MIRROR, OFFSETS_M, PARENTS, TOE_HEIGHT_M

FPS = 30.0


@cache
def song_of(genre: str, seed: int = 3) -> Song:
    """A song's form and beats with silent samples: what a dancer needs, without the time that sound takes."""
    spec = random_spec(f"{genre}-{seed}", genre, seed, duration_s=26.0)
    real = make_song(SongSpec(spec.name, genre, spec.tempo_bpm, seed, 4.0))
    beat_s = 60.0 / spec.tempo_bpm
    beats_s = real.beats_s[0] + beat_s * np.arange(int((25.9 - real.beats_s[0]) / beat_s))
    names = ("verse", "chorus", "break", "chorus", "verse", "chorus", "outro")
    starts_s = beats_s[::8]
    ends_s = [*starts_s[1:], 26.0]
    sections = [
        type(real.sections[0])(names[i % 7], float(a), float(b), {"break": 0.2, "verse": 0.65}.get(names[i % 7], 1.0))
        for i, (a, b) in enumerate(zip(starts_s, ends_s, strict=True))
    ]
    return dataclasses.replace(
        real,
        spec=spec,
        samples=np.zeros(26 * SAMPLE_RATE, np.float32),
        beats_s=beats_s,
        accents_s=beats_s,
        accent_strengths=np.ones(len(beats_s)),
        downbeats_s=beats_s[::4],
        eight_counts_s=starts_s,
        sections=sections,
    )


@cache
def dance_of(genre: str, dancer: int = 0) -> Motion:
    return make_dance(song_of(genre), dancer)


@cache
def joints_of(genre: str, dancer: int = 0) -> np.ndarray:
    return dance_of(genre, dancer).joint_positions().astype(np.float64)


def speeds(joints: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(joints, axis=0), axis=-1) * FPS


def test_every_genre_has_eight_named_moves_of_its_own() -> None:
    names = moves_by_genre()
    assert tuple(names) == GENRES
    for genre, moves in names.items():
        assert len(moves) >= 8, genre
        assert len(set(moves)) == len(moves)
    assert len({name for moves in names.values() for name in moves}) >= 64


def test_make_dance_covers_the_song_at_30_fps() -> None:
    song, dance = song_of("house"), dance_of("house")
    assert dance.fps == FPS
    assert dance.num_frames == round(song.duration_s * FPS)
    assert dance.genre == "house"
    assert dance.song == song.spec.name
    assert dance.music_beats_s is not None
    np.testing.assert_allclose(dance.music_beats_s, song.beats_s, atol=1e-9)


def test_make_dance_is_the_same_for_the_same_dancer_and_differs_between_dancers() -> None:
    again = make_dance(song_of("locking"), 0)
    np.testing.assert_array_equal(again.poses, dance_of("locking").poses)
    np.testing.assert_array_equal(again.trans, dance_of("locking").trans)
    assert np.abs(dance_of("locking", 1).trans - again.trans).mean() > 0.02


def test_excerpt_equals_the_same_frames_of_the_whole_dance() -> None:
    song, whole = song_of("krump"), dance_of("krump")
    part = make_dance(song, 0, start_s=100 / FPS, num_frames=150)
    np.testing.assert_allclose(part.poses, whole.poses[100:250], atol=2e-5)
    np.testing.assert_allclose(part.trans, whole.trans[100:250], atol=1e-6)
    expected = song.beats_s[(song.beats_s >= 100 / FPS) & (song.beats_s < 250 / FPS)] - 100 / FPS
    assert part.music_beats_s is not None
    np.testing.assert_allclose(part.music_beats_s, expected, atol=1e-9)


@pytest.mark.parametrize(("start_s", "frames"), [(-1.0, 30), (0.0, 0), (25.0, 60)])
def test_excerpt_outside_the_song_is_refused(start_s: float, frames: int) -> None:
    with pytest.raises(DataError, match="excerpt of a song"):
        make_dance(song_of("house"), 0, start_s=start_s, num_frames=frames)


@pytest.mark.parametrize("genre", GENRES)
def test_dance_is_on_the_beat_and_not_on_another_tempo(genre: str) -> None:
    beats = motion_beats(joints_of(genre), FPS)
    music = dance_of(genre).music_beats_s
    assert music is not None
    assert beat_alignment(music, beats) > 0.85
    off = music + 0.5 * float(np.median(np.diff(music)))
    assert beat_alignment(off, beats) < beat_alignment(music, beats) - 0.3


@pytest.mark.parametrize("genre", GENRES)
def test_body_stays_whole_above_the_floor_and_near_the_origin(genre: str) -> None:
    joints, dance = joints_of(genre), dance_of(genre)
    lengths = np.linalg.norm(joints[:, 1:] - joints[:, list(PARENTS[1:])], axis=-1)
    np.testing.assert_allclose(
        lengths, np.broadcast_to(np.linalg.norm(OFFSETS_M, axis=-1)[1:], lengths.shape), atol=1e-4
    )
    assert joints[..., 1].min() > TOE_HEIGHT_M - 0.005
    assert np.quantile(joints[:, [10, 11], 1].min(axis=1), 0.9) < TOE_HEIGHT_M + 0.01, "one foot is always on the floor"
    assert np.abs(dance.trans[:, [0, 2]]).max() < 1.1
    assert 0.55 < dance.trans[:, 1].min() < dance.trans[:, 1].max() < 1.0


@pytest.mark.parametrize("genre", GENRES)
def test_motion_has_no_pops(genre: str) -> None:
    joints = joints_of(genre)
    assert speeds(joints).max() < 14.0
    assert speeds(joints)[:, 0].max() < 3.0
    acceleration = np.linalg.norm(np.diff(joints, 2, axis=0), axis=-1) * FPS**2
    assert acceleration.max() < 250.0
    assert 40.0 < float(mean_jerk(torch.from_numpy(joints), FPS)) < 250.0
    assert 0.15 < speeds(joints).mean() < 1.2


def test_feet_slide_a_little_but_only_a_little() -> None:
    values = [float(foot_skating(torch.from_numpy(joints_of(genre)), FPS)) for genre in GENRES]
    assert 0.01 < np.mean(values) < 0.12
    assert max(values) < 0.25


@pytest.mark.parametrize("genre", ["popping", "hiphop", "latin"])
def test_planted_feet_do_not_move_at_all(genre: str) -> None:
    joints = joints_of(genre)
    still = speeds(joints)[:, [7, 8]] < 0.005
    # Most of the time at least one ankle is exactly where it was.
    assert still.any(axis=1).mean() > 0.6


@pytest.mark.parametrize("genre", GENRES)
def test_knees_bend_forward_and_never_lock_or_fold(genre: str) -> None:
    joints = joints_of(genre)
    for hip, knee, ankle, toe in ((1, 4, 7, 10), (2, 5, 8, 11)):
        thigh, shin = joints[:, knee] - joints[:, hip], joints[:, ankle] - joints[:, knee]
        cosine = (thigh * shin).sum(-1) / np.linalg.norm(thigh, axis=-1) / np.linalg.norm(shin, axis=-1)
        flexion = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        assert flexion.min() > 5.0
        assert flexion.max() < 150.0
        # The knee lies on the toes' side of the line from hip to ankle.
        foot = joints[:, toe] - joints[:, ankle]
        line = joints[:, ankle] - joints[:, hip]
        line /= np.linalg.norm(line, axis=-1, keepdims=True)
        ahead = thigh - (thigh * line).sum(-1, keepdims=True) * line
        assert ((ahead * foot).sum(-1) > 0).mean() > 0.97


@pytest.mark.parametrize("genre", GENRES)
def test_arms_stay_out_of_the_torso_and_the_head(genre: str) -> None:
    from macedance.motion.rotations import matrix_from_axis_angle
    from macedance.motion.skeleton import global_rotations

    dance, joints = dance_of(genre), joints_of(genre)
    chest = global_rotations(matrix_from_axis_angle(torch.from_numpy(dance.poses)))[:, 9].double().numpy()
    for elbow, wrist, hand in ((18, 20, 22), (19, 21, 23)):
        for point in (0.5 * (joints[:, elbow] + joints[:, wrist]), joints[:, wrist], joints[:, hand]):
            local = np.einsum("tji,tj->ti", chest, point - joints[:, 9])
            inside = np.hypot(local[:, 0] / 0.15, (local[:, 2] - 0.02) / 0.10) < 1.0
            assert not (inside & (local[:, 1] > -0.15) & (local[:, 1] < 0.2)).any()
            head = joints[:, 15] + np.array([0.0, 0.07, 0.0])
            assert np.linalg.norm(point - head, axis=-1).min() > 0.09


def test_mirrored_dancer_dances_the_mirror_image() -> None:
    song = song_of("breaking")
    style = DANCE_STYLES["breaking"]
    from macedance.demo.body import solve_body
    from macedance.demo.choreography import _Score
    from macedance.motion.skeleton import joints_from_poses

    def joints(mirrored: bool) -> np.ndarray:
        dancer = Dancer(mirrored, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, (0.0,) * 6)
        score = _Score(style, dancer, 0.5)
        for phrase in plan_phrases(song, style, dancer, np.random.default_rng(5)):
            score.add_phrase(dataclasses.replace(phrase, facing=0.0, x=0.0, z=0.0))
        beats = np.arange(0, 24, 0.25)
        poses, trans = solve_body(score.controls(beats, np.zeros_like(beats)))
        return joints_from_poses(torch.from_numpy(poses), torch.from_numpy(trans)).numpy()

    left, right = joints(False), joints(True)[:, list(MIRROR)] * np.array([-1.0, 1.0, 1.0])
    # The skeleton itself is not quite symmetric and a step may be taken in the other order: compare the body's middle.
    assert np.abs(left - right).mean() < 0.03
    assert np.abs(left - joints(True)).mean() > 0.06


def test_breaks_are_danced_smaller_than_choruses() -> None:
    ratios = []
    for genre in GENRES:
        song, joints = song_of(genre), joints_of(genre)
        speed = speeds(joints).mean(axis=1)
        time_s = (np.arange(len(speed)) + 0.5) / FPS
        by_name = {
            name: np.mean(
                [speed[(time_s > s.start_s + 0.5) & (time_s < s.end_s)].mean() for s in song.sections if s.name == name]
            )
            for name in ("break", "chorus")
        }
        ratios.append(by_name["break"] / by_name["chorus"])
    assert np.mean(ratios) < 0.75


def test_chorus_comes_back_with_its_own_choreography() -> None:
    song = song_of("waacking")
    rng = np.random.default_rng(1)
    phrases = plan_phrases(song, DANCE_STYLES["waacking"], draw_dancer(rng), rng)
    chorus = [p for p, s in zip(phrases, song.sections, strict=True) if s.name == "chorus"]
    names = [tuple(move.name for move in p.moves) for p in chorus]
    # A A' B: the second is the first on the other side, the third is new.
    assert names[0] == names[1]
    assert chorus[0].moves != chorus[1].moves
    assert names[2] != names[0]


def test_genres_are_told_apart_by_how_they_move() -> None:
    def features(genre: str, dancer: int) -> np.ndarray:
        v = np.diff(joints_of(genre, dancer), axis=0) * FPS
        a = np.linalg.norm(np.diff(v, axis=0), axis=-1).mean(axis=0) * FPS
        return np.log(np.concatenate([(v[..., [0, 2]] ** 2).sum(-1).mean(0), (v[..., 1] ** 2).mean(0), a]) + 1e-3)

    known = np.stack([features(genre, dancer) for genre in GENRES for dancer in (0, 1)])
    asked = np.stack([features(genre, 2) for genre in GENRES])
    mean, std = known.mean(axis=0), known.std(axis=0)
    distance = np.linalg.norm(((asked - mean) / std)[:, None] - ((known - mean) / std)[None], axis=-1)
    right = np.mean(distance.argmin(axis=1) // 2 == np.arange(len(GENRES)))
    assert right >= 0.5  # chance is 0.125


def test_half_a_minute_is_danced_in_a_quarter_of_a_second() -> None:
    song = song_of("hiphop")
    times = []
    for dancer in range(3):
        start = time.process_time()
        make_dance(song, dancer)
        times.append(time.process_time() - start)
    assert min(times) < 0.25


@pytest.mark.parametrize("name", sorted(ARM_POSES))
def test_arm_pose_points_where_it_is_written(name: str) -> None:
    from macedance.demo.body import matrices_from_quaternions

    pose = ARM_POSES[name]
    for side, sign in ((0, 1.0), (1, -1.0)):
        quaternion, flexion, _ = arm_rotation(pose, side)
        upper = matrices_from_quaternions(quaternion) @ np.array([sign, 0.0, 0.0])
        wanted = np.asarray(pose.upper) * np.array([sign, 1.0, 1.0])
        np.testing.assert_allclose(upper, wanted / np.linalg.norm(wanted), atol=1e-9)
        assert np.deg2rad(3) < flexion < np.deg2rad(150)


def test_track_arrives_on_the_beat_and_rests_there() -> None:
    track = Track()
    for beat, value in enumerate((0.0, 1.0, 0.5)):
        track.add(beat, value, 0.6)
    beats = np.array([-1.0, 0.0, 0.5, 1.0, 1.05, 2.0, 9.0])
    np.testing.assert_allclose(track.evaluate(beats), [0.0, 0.0, 0.5, 1.0, 1.0, 0.5, 0.5], atol=1e-6)
    begin, end = movement_windows(np.array([0.0, 1.0, 4.0]), np.array([0.6, 0.6, 0.6]))
    assert end[2] - begin[2] == pytest.approx(0.6), "a long rest is a rest, then one beat's movement"
    assert (begin[1:] >= end[:-1]).all()


def test_slerp_takes_the_shorter_way() -> None:
    start = np.array([[1.0, 0.0, 0.0, 0.0]])
    end = -np.array([[np.cos(0.3), np.sin(0.3), 0.0, 0.0]])
    half = slerp(start, end, np.array([0.5]))
    np.testing.assert_allclose(half, [[np.cos(0.15), np.sin(0.15), 0.0, 0.0]], atol=1e-9)


def test_key_with_an_unknown_channel_or_arm_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown channel 'elbow'"):
        at(0, elbow=3.0)
    with pytest.raises(ConfigError, match="unknown arm pose 'wing'"):
        at(0, arms="wing")


def test_mirroring_a_key_twice_gives_it_back() -> None:
    key = at(1, la="up", ra="hip", w=0.5, cy=10, sl=4, cp=3, lf=Foot(0.1, 0.2, yaw=20))
    assert key.mirrored() != key
    assert key.mirrored().mirrored() == key
    assert key.mirrored().right_foot == Foot(-0.1, 0.2, yaw=-20)


def test_dancer_holds_back_where_the_drums_stop() -> None:
    song = song_of("hiphop")
    quiet = dataclasses.replace(
        song, accents_s=song.accents_s[(song.accents_s < song.beats_s[12]) | (song.accents_s >= song.beats_s[16])]
    )
    rng = np.random.default_rng(2)
    style = DANCE_STYLES["hiphop"]
    phrases = plan_phrases(quiet, style, dataclasses.replace(draw_dancer(rng), mirrored=False), rng)
    assert phrases[1].moves[1] == style.groove
    assert phrases[1].moves[0] != style.groove
