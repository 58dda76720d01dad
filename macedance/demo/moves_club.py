"""Moves of house, waacking and salsa (latin), written for one side."""

from __future__ import annotations

from macedance.demo.moves import Foot, Move, Style, alternating, at, repeated

HOUSE = Style(
    arms="relaxed", drop_m=0.035, bounce_m=0.045, rock=6.0, lean=8.0, stance_m=0.11, snap=0.66, lift_m=0.036,
    groove=Move("jack in place", alternating(
        at(0, w=0.3, cp=8, pz=-0.02, la="relaxed", ra="ready"),
        at(1, w=-0.1, cp=-4, pz=0.02, la="ready", ra="relaxed"),
    ), 0.1),
    moves=(
        Move("jack", (
            at(0, cp=18, hp=-6, pz=-0.04, pop=-10, np=6, w=0.3, arms="low_front", lf=Foot(0.04)),
            at(1, cp=-8, hp=8, pz=0.05, pop=12, np=-8, w=-0.3, arms="wide_low"),
            at(2, cp=18, hp=-6, pz=-0.04, pop=-10, np=6, w=0.3, arms="low_front"),
            at(3, cp=-8, hp=8, pz=0.05, pop=12, np=-8, w=-0.3, arms="side_bent"),
        ), 0.5),
        Move("loose legs", alternating(
            at(0, rf=Foot(-0.14, 0.12, yaw=-20, pitch=-12, lift=0.07), w=0.95, cr=8, cy=10, la="cross", ra="low_out"),
            at(0.5, rf=Foot(0.0, 0.0), w=0.2),
            at(1, lf=Foot(0.06, -0.12, pitch=20), w=-0.7, cr=-4, cy=-10, la="low_out", ra="relaxed", drop=0.03),
            at(1.5, lf=Foot(0.0, 0.0), w=0.0, drop=0.0),
        ), 0.85),
        Move("pas de bourree", (
            at(0, rf=Foot(0.14, -0.18, yaw=-10), w=-0.5, hy=-16, cy=18, la="side_bent", ra="swing_back"),
            at(1, lf=Foot(0.16, 0.0), w=0.6, hy=0, cy=-6, la="relaxed", ra="relaxed"),
            at(2, rf=Foot(0.0, 0.14), w=-0.5, hy=14, cy=-18, cp=6, la="swing_back", ra="side_bent"),
            at(3, lf=Foot(0.0, 0.0), w=0.4, hy=0, cy=6, cp=0, la="relaxed", ra="relaxed"),
        ), 0.75),
        Move("shuffle", alternating(
            at(0, rf=Foot(-0.02, 0.18), w=-0.6, cp=10, cy=12, la="run_front", ra="run_back"),
            at(1, rf=Foot(0.0, -0.02, glide=True), lf=Foot(0.0, -0.14, pitch=24, lift=0.08), w=-0.9, cp=2, cy=-10,
               la="run_back", ra="run_front"),
        ), 0.8),
        Move("heel-toe", alternating(
            at(0, lf=Foot(0.05, 0.10, yaw=20, pitch=-18), w=-0.8, cy=12, cr=8, la="low_out", ra="relaxed"),
            at(1, lf=Foot(0.0, -0.02, yaw=-6), w=0.5, cy=-8, cr=-2, la="relaxed", ra="low_out"),
        ), 0.35),
        Move("farmer", alternating(
            at(0, rf=Foot(0.08, 0.16, pitch=10, lift=0.20), w=0.95, cp=8, cy=18, la="run_front", ra="swing_back"),
            at(1, rf=Foot(-0.10, 0.0), w=-0.6, cp=0, cy=-8, la="low_out", ra="run_front", drop=0.03),
        ), 0.9),
        Move("side walk", (
            at(0, rf=Foot(-0.24), w=-0.6, cr=-6, cy=-10, la="relaxed", ra="side_bent"),
            at(1, lf=Foot(-0.22, -0.15, yaw=-10), w=0.6, cr=4, cy=8, la="side_bent", ra="relaxed"),
            at(2, rf=Foot(-0.02), w=-0.4, cr=6, cy=10, la="relaxed", ra="side_bent", drop=0.03),
            at(3, lf=Foot(0.0), w=0.4, cr=-4, cy=-8, la="side_bent", ra="relaxed", drop=0.0),
        ), 0.3),
        Move("train", repeated(
            at(0, rf=Foot(-0.02, 0.20), w=-0.5, cp=14, pz=0.02, la="run_front", ra="run_back", cy=14),
            at(1, rf=Foot(-0.02, -0.04), w=0.4, cp=0, pz=-0.02, la="run_back", ra="run_front", cy=-14),
        ), 0.45),
        Move("stomp", (
            at(0, lf=Foot(0.16, 0.06), w=0.5, cr=8, cp=12, drop=0.06, la="low_out", ra="cross_low"),
            at(1, lf=Foot(0.0, 0.0), w=0.0, cr=0, cp=0, drop=0.0, arms="side_bent"),
            at(2, rf=Foot(-0.16, 0.06), w=-0.5, cr=-8, cp=12, drop=0.06, la="cross_low", ra="low_out"),
            at(3, rf=Foot(0.0, 0.0), w=0.0, cr=0, cp=0, drop=0.0, arms="side_bent"),
        ), 0.65),
    ),
)  # fmt: skip

WAACKING = Style(
    arms="side_bent", drop_m=0.012, bounce_m=0.015, rock=1.5, sway=5.0, lean=0.0, stance_m=0.10, toe_out=14.0,
    snap=0.54, lift_m=0.03,
    groove=Move("hip pose", alternating(
        at(0, w=0.8, la="hip", ra="low_out", hr=-6, cr=6, ny=10),
        at(1, w=0.6, la="hip", ra="side_bent", hr=4, cr=-2, ny=-4),
    ), 0.1),
    moves=(
        Move("overhead whip", alternating(
            at(0, ra="overhead", la="hip", w=0.7, cr=10, cy=8, hr=-6, ny=-14),
            at(1, ra="whip_out", la="hip", w=-0.7, cr=-6, cy=-12, hr=6, ny=-24, rf=Foot(-0.10)),
        ), 0.5),
        Move("double waack", (
            at(0, arms="shoulder", w=0.6, cp=4, cr=6, lf=Foot(0.04, 0.12)),
            at(1, arms="whip_out", w=-0.6, cp=-10, cr=-6, np=-8, rf=Foot(-0.08)),
            at(2, arms="behind_head", w=0.6, cp=2, cr=6, np=0, lf=Foot(-0.02, 0.0, pitch=24)),
            at(3, arms="whip_out", w=-0.6, cp=-10, cr=-6, np=-8),
        ), 0.9),
        Move("punk", (
            at(0, la="up", ra="cross", cy=16, cr=-8, w=0.7, ny=10, np=-10, rf=Foot(0.0, 0.02, pitch=26)),
            at(1, la="cross", ra="up", cy=-16, cr=8, w=-0.7, ny=-10, np=-10, rf=Foot(-0.12)),
            at(2, la="whip_out", ra="overhead", cy=20, cr=-8, w=0.7, ny=24, np=0, lf=Foot(0.08)),
            at(3, la="overhead", ra="whip_out", cy=-20, cr=8, w=-0.7, ny=-24, np=0, lf=Foot(0.0, 0.0, pitch=24)),
        ), 0.95),
        Move("arm roll", alternating(
            at(0, la="front", ra="up", cy=-14, w=-0.5, cr=-4),
            at(1, la="up", ra="side", cy=12, w=0.4, cr=6, lf=Foot(0.06, 0.06)),
        ), 0.7),
        Move("walk and point", alternating(
            at(0, rf=Foot(0.0, 0.16, yaw=6), w=-0.7, hr=8, cr=-6, la="hip", ra="point_front", cy=14),
            at(1, lf=Foot(0.02, -0.02, pitch=22), w=-0.6, hr=-4, cr=6, la="hip", ra="point_up", cy=-8, np=-10),
        ), 0.4),
        Move("pose and freeze", (
            at(0, la="behind_head", ra="hip", w=-0.8, hr=10, cr=-12, ny=22, lf=Foot(0.10, 0.06, pitch=24)),
            at(1, la="behind_head", ra="low_out", w=-0.8, hr=6, cr=-6, ny=-10),
            at(2, la="hip", ra="behind_head", w=0.8, hr=-10, cr=12, ny=-22, lf=Foot()),
            at(3, la="low_out", ra="behind_head", w=0.6, hr=-4, cr=6, ny=10),
        ), 0.3),
        Move("tornado", (
            at(0, la="side", ra="overhead", w=0.6, cy=-18, cr=8, lf=Foot(0.12)),
            at(1, la="overhead", ra="side", w=-0.6, cy=18, cr=-8, lf=Foot(0.10, 0.0, pitch=24)),
            at(2, la="up", ra="up", w=0.0, cy=0, cr=0, cp=-10, np=-12, pop=8, lf=Foot()),
            at(3, arms="low_out", w=0.3, cp=6, np=4, pop=-4, drop=0.05),
        ), 0.8),
        Move("side lunge", alternating(
            at(0, rf=Foot(-0.30, 0.0, yaw=-16), w=-0.5, drop=0.06, cr=10, la="up_wide", ra="hip", ny=18, hr=6),
            at(1, rf=Foot(-0.02), w=0.6, drop=0.0, cr=-4, la="shoulder", ra="side", ny=-10, hr=-6),
        ), 0.6),
        Move("soul train", alternating(
            at(0, rf=Foot(-0.18), w=-0.7, cr=-8, hr=8, la="side_bent", ra="whip_out", ny=-18),
            at(1, lf=Foot(-0.14, 0.0, pitch=20), w=-0.6, cr=6, hr=-6, la="chest", ra="chest", ny=6, drop=0.03),
        ), 0.45),
    ),
)  # fmt: skip

LATIN = Style(
    arms="salsa", drop_m=0.02, bounce_m=0.012, rock=1.5, sway=8.0, lean=1.0, stance_m=0.085, toe_out=14.0,
    snap=0.64, lift_m=0.03,
    groove=Move("hip sway", alternating(
        at(0, w=0.7, hr=-6, la="salsa_in", ra="salsa"),
        at(1, w=-0.5, hr=6, la="salsa", ra="salsa_in"),
    ), 0.1),
    moves=(
        Move("basic", (
            at(0, lf=Foot(0.02, 0.20), w=0.6, cy=-10, hy=8, la="salsa_in", ra="salsa", hr=-6),
            at(1, w=-0.7, cy=8, hy=-6, la="salsa", ra="salsa_in", hr=6),
            at(2, lf=Foot(), w=0.7, cy=-8, hy=6, la="salsa_in", ra="salsa", hr=-8),
            at(3, w=0.3, cy=0, hy=0, arms="salsa", hr=4, rf=Foot(0.0, 0.0, pitch=16)),
        ), 0.3),
        Move("side basic", (
            at(0, rf=Foot(-0.22), w=-0.7, cr=6, hr=8, la="side_bent", ra="salsa_in"),
            at(1, w=0.6, cr=-6, hr=-8, la="salsa_in", ra="side_bent"),
            at(2, rf=Foot(), w=-0.6, cr=6, hr=8, la="salsa", ra="salsa_in"),
            at(3, w=-0.2, cr=0, hr=-4, arms="salsa", lf=Foot(0.0, 0.02, pitch=18)),
        ), 0.4),
        Move("suzy q", (
            at(0, rf=Foot(0.16, 0.17, yaw=24), w=-0.7, hy=22, cy=-18, la="low_out", ra="cross"),
            at(1, lf=Foot(0.10, -0.02), w=0.7, hy=-6, cy=6, la="salsa", ra="salsa"),
            at(2, rf=Foot(-0.04, 0.0), w=-0.6, hy=-12, cy=12, la="cross", ra="low_out"),
            at(3, lf=Foot(), w=0.4, hy=0, cy=0, arms="salsa"),
        ), 0.75),
        Move("cumbia back", alternating(
            at(0, rf=Foot(-0.04, -0.22, yaw=-26, pitch=14), w=-0.4, hy=-26, cy=12, la="front", ra="low_out", hr=6),
            at(1, rf=Foot(), w=0.4, hy=0, cy=0, la="salsa", ra="salsa_in", hr=-6),
        ), 0.6),
        Move("mambo", (
            at(0, lf=Foot(-0.02, 0.22), w=0.6, cp=6, cy=-14, hr=-8, la="swing_back", ra="side_bent"),
            at(1, lf=Foot(0.0, -0.02), w=-0.4, cp=0, cy=10, hr=6, la="salsa", ra="salsa"),
            at(2, rf=Foot(0.02, -0.20), w=-0.5, cp=-4, cy=14, hr=8, la="side_bent", ra="swing_back"),
            at(3, rf=Foot(), w=0.4, cp=0, cy=0, hr=-6, la="salsa", ra="salsa"),
        ), 0.55),
        Move("shines kick", (
            at(0, rf=Foot(0.04, 0.26, pitch=16, lift=0.14), w=0.95, cy=12, cp=-4, la="side", ra="low_out"),
            at(1, rf=Foot(), w=-0.6, cy=-8, cp=4, la="salsa_in", ra="salsa"),
            at(2, lf=Foot(-0.04, 0.26, pitch=16, lift=0.14), w=-0.95, cy=-12, cp=-4, la="low_out", ra="side"),
            at(3, lf=Foot(), w=0.6, cy=8, cp=4, la="salsa", ra="salsa_in"),
        ), 0.9),
        Move("crossover", alternating(
            at(0, lf=Foot(-0.15, 0.18, yaw=-20), w=0.7, hy=-20, cy=10, la="point_side", ra="salsa_in", hr=-8),
            at(1, lf=Foot(), w=-0.5, hy=4, cy=0, la="salsa", ra="salsa", hr=8),
        ), 0.7),
        Move("arms up sway", (
            at(0, la="up_wide", ra="hip", w=0.8, hr=-10, cr=10, lf=Foot(0.10)),
            at(1, la="up", ra="hip", w=-0.8, hr=10, cr=-10),
            at(2, la="up_wide", ra="up_wide", w=0.8, hr=-10, cr=10, np=-6),
            at(3, la="side", ra="side", w=-0.6, hr=8, cr=-6, np=0),
        ), 0.85),
        Move("grapevine", (
            at(0, rf=Foot(-0.20), w=-0.6, hr=6, cy=-8, la="salsa_in", ra="side_bent"),
            at(1, lf=Foot(-0.22, -0.18, yaw=-12), w=0.5, hr=-6, cy=14, la="salsa", ra="salsa_in"),
            at(2, rf=Foot(-0.04), w=-0.5, hr=6, cy=-8, la="salsa_in", ra="side_bent"),
            at(3, lf=Foot(), w=0.5, hr=-4, cy=0, arms="salsa"),
        ), 0.45),
    ),
)  # fmt: skip
