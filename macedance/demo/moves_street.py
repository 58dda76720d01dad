"""Moves of hip-hop, krump and breaking (its standing toprock), written for one side."""

from __future__ import annotations

from macedance.demo.moves import Foot, Move, Style, alternating, at

HIPHOP = Style(
    arms="relaxed", drop_m=0.03, bounce_m=0.055, rock=8.0, lean=6.0, stance_m=0.13, snap=0.5, lift_m=0.034,
    groove=Move("bounce", alternating(
        at(0, w=0.5, cr=7, cy=6, la="relaxed", ra="ready"),
        at(1, w=0.0, cr=0, cy=0, la="ready", ra="relaxed"),
    ), 0.1),
    moves=(
        Move("two-step", alternating(
            at(0, rf=Foot(-0.21), w=-0.6, cy=-14, cr=-6, la="swing_front", ra="swing_back", ny=-10),
            at(1, lf=Foot(-0.17, 0.02, pitch=22), w=-0.6, cy=10, cr=4, la="swing_back", ra="swing_front", ny=8),
        ), 0.3),
        Move("rock steady", (
            at(0, lf=Foot(0.10), w=0.7, cr=16, hr=-7, cy=12, la="swing_back", ra="run_front", nr=6),
            at(1, w=-0.7, cr=-16, hr=7, cy=-12, la="run_front", ra="swing_back", nr=-6),
            at(2, w=0.7, cr=16, hr=-7, cy=16, cp=8, la="swing_back", ra="guard", nr=6),
            at(3, w=-0.7, cr=-16, hr=7, cy=-16, cp=8, la="guard", ra="swing_back", nr=-6),
        ), 0.35),
        Move("running man", alternating(
            at(0, rf=Foot(0.0, 0.14, pitch=14, lift=0.24), w=0.95, cp=6, cy=16, la="run_front", ra="run_back"),
            at(1, rf=Foot(0.0, 0.17), lf=Foot(0.0, -0.20, pitch=18, glide=True), w=-0.3, cp=0, cy=-4, drop=0.05,
               la="run_back", ra="run_front"),
        ), 0.75),
        Move("cabbage patch", (
            at(0, rf=Foot(-0.10), w=-0.5, cy=-24, cp=4, pz=0.03, arms="front", hr=5),
            at(1, w=0.0, cy=0, cp=14, pz=-0.03, arms="guard", drop=0.05, hr=0),
            at(2, w=0.5, cy=24, cp=4, pz=0.03, arms="front", hr=-5),
            at(3, w=0.0, cy=0, cp=-6, pz=0.0, arms="side_bent", drop=0.0, hr=0),
        ), 0.45),
        Move("steve martin", alternating(
            at(0, rf=Foot(-0.24, 0.10, yaw=-18, pitch=-8, lift=0.15), w=0.95, cr=14, cy=18, la="low_out", ra="cross"),
            at(1, rf=Foot(-0.02), w=-0.4, cr=0, cy=-6, la="cross", ra="low_out", drop=0.05),
        ), 0.8),
        Move("harlem shake", (
            at(0, w=-0.5, sl=26, sr=0, cr=-10, cy=-16, pop=10, la="hang", ra="relaxed"),
            at(1, w=-0.5, sl=0, sr=26, cr=8, cy=14, pop=-6, la="relaxed", ra="hang"),
            at(2, w=0.5, sl=26, sr=0, cr=-10, cy=-18, pop=12, la="hang", ra="relaxed", np=8),
            at(3, w=0.5, sl=0, sr=26, cr=8, cy=18, pop=-6, la="relaxed", ra="hang", np=0),
        ), 0.25),
        Move("happy feet", alternating(
            at(0, lf=Foot(0.04, yaw=28, pitch=-10), w=-0.6, cy=-14, cr=8, la="side_bent", ra="low_out", ny=14),
            at(1, lf=Foot(0.0, yaw=-12), w=0.0, cy=8, cr=0, la="low_out", ra="side_bent", ny=0),
        ), 0.5),
        Move("smurf", (
            at(0, lf=Foot(0.22), w=0.6, drop=0.10, cr=12, cy=10, la="low_out", ra="cross", hr=-8),
            at(1, rf=Foot(0.12), w=0.6, drop=0.0, cr=-6, cy=-8, la="cross", ra="low_out", hr=4),
            at(2, rf=Foot(-0.18), w=-0.6, drop=0.10, cr=-12, cy=-10, la="cross", ra="low_out", hr=8),
            at(3, lf=Foot(-0.06), w=-0.6, drop=0.0, cr=6, cy=8, la="low_out", ra="cross", hr=-4),
        ), 0.6),
        Move("wop", (
            at(0, w=0.7, cr=14, cy=-20, la="goal", ra="fist_up", ny=18, rf=Foot(-0.08)),
            at(1, w=-0.7, cr=-14, cy=20, la="fist_up", ra="goal", ny=-18, drop=0.05),
            at(2, w=0.7, cr=14, cy=-20, la="goal", ra="flex", ny=18, drop=0.0),
            at(3, w=-0.7, cr=-14, cy=20, la="flex", ra="goal", ny=-18, drop=0.05),
        ), 0.9),
    ),
)  # fmt: skip

KRUMP = Style(
    arms="guard", drop_m=0.07, bounce_m=0.05, rock=7.0, lean=14.0, stance_m=0.19, toe_out=20.0, snap=0.5,
    lift_m=0.045,
    groove=Move("get-off", alternating(
        at(0, w=0.5, cy=12, cr=8, la="guard", ra="smash", pop=8),
        at(1, w=-0.2, cy=-6, cr=-4, la="guard", ra="guard", pop=-6),
    ), 0.1),
    moves=(
        Move("stomp", alternating(
            at(0, rf=Foot(-0.05, 0.06, pitch=10, lift=0.26), w=0.95, cp=-10, la="fist_up", ra="flex"),
            at(1, rf=Foot(-0.08, 0.10), w=-0.5, cp=16, drop=0.08, arms="smash", np=10),
        ), 0.8, snap=0.5),
        Move("chest pop", (
            at(0, pop=18, cp=-12, w=0.3, arms="side_bent", np=-14),
            at(1, pop=-16, cp=16, w=0.3, arms="cross", np=14, drop=0.06),
            at(2, pop=18, cp=-12, w=-0.3, arms="wide_low", np=-14, drop=0.0),
            at(3, pop=-16, cp=18, w=-0.3, arms="cross", np=14, drop=0.06),
        ), 0.5, snap=0.48),
        Move("jab", (
            at(0, w=0.6, cy=28, cp=4, la="guard", ra="jab", lf=Foot(0.04, 0.12), ny=-16),
            at(1, w=-0.4, cy=-26, cp=4, la="jab", ra="guard", ny=14),
            at(2, w=0.6, cy=30, cp=10, la="guard", ra="jab", ny=-16, drop=0.06),
            at(3, w=0.0, cy=0, cp=-8, arms="flex", ny=0, drop=0.0),
        ), 0.6, snap=0.48),
        Move("arm swing", alternating(
            at(0, w=-0.7, cy=-22, cr=-10, la="swing_back", ra="up_wide", rf=Foot(-0.14)),
            at(1, w=0.5, cy=24, cr=10, cp=12, la="guard", ra="cross_low", drop=0.08, np=8),
        ), 0.85),
        Move("buck hop", (
            at(0, lf=Foot(0.05, 0.08, pitch=10, lift=0.20), w=-0.95, cp=-6, cr=-10, la="flex", ra="wide_low"),
            at(1, lf=Foot(0.06), w=0.6, cp=14, cr=8, drop=0.09, la="smash", ra="guard"),
            at(2, rf=Foot(-0.05, 0.08, pitch=10, lift=0.20), w=0.95, cp=-6, cr=10, la="wide_low", ra="flex"),
            at(3, rf=Foot(-0.06), w=-0.6, cp=14, cr=-8, drop=0.09, la="guard", ra="smash"),
        ), 0.95),
        Move("wind-up", (
            at(0, w=-0.5, cy=-18, cr=-8, la="chest", ra="hook"),
            at(1, w=0.0, cy=10, cr=0, la="chest", ra="goal", cp=-6),
            at(2, w=0.5, cy=30, cr=8, la="swing_back", ra="stab", cp=14, drop=0.08, rf=Foot(-0.04, 0.14)),
            at(3, w=0.2, cy=0, cr=0, la="guard", ra="guard", cp=0, drop=0.0),
        ), 0.45),
        Move("kill-off", (
            at(0, w=0.0, arms="up_wide", cp=-14, pop=10, np=-16, lf=Foot(0.08)),
            at(1, w=0.0, arms="smash", cp=30, pop=-10, np=12, drop=0.12),
            at(2, w=0.4, arms="wide_low", cp=6, cy=18, pop=12, np=0, drop=0.04),
            at(3, w=-0.4, arms="chest", cp=14, cy=-18, pop=-10, np=6, drop=0.06),
        ), 0.9),
        Move("labbing", (
            at(0, w=0.5, la="chest", ra="wide_low", cy=14, cr=12, pop=8, sl=10),
            at(1, w=-0.5, la="wide_low", ra="chest", cy=-14, cr=-12, pop=-8, sr=10, sl=0),
            at(2, w=0.5, la="shoulder", ra="low_out", cy=20, cr=12, pop=10, sl=16, sr=0),
            at(3, w=-0.5, la="low_out", ra="shoulder", cy=-20, cr=-12, pop=-8, sr=16, sl=0),
        ), 0.3),
    ),
)  # fmt: skip

BREAKING = Style(
    arms="ready", drop_m=0.04, bounce_m=0.035, rock=4.0, lean=10.0, stance_m=0.12, snap=0.56, lift_m=0.042,
    groove=Move("b-boy stance", alternating(
        at(0, w=0.5, arms="cross", cr=8, cy=8, nr=4),
        at(1, w=-0.3, arms="cross", cr=-4, cy=-4, nr=-2),
    ), 0.1),
    moves=(
        Move("indian step", alternating(
            at(0, rf=Foot(0.14, 0.24, yaw=14), w=-0.6, cy=20, cp=10, la="cross", ra="cross", drop=0.03),
            at(1, rf=Foot(-0.02, -0.02), w=0.0, cy=-8, cp=-6, arms="side", drop=0.0),
        ), 0.7),
        Move("kick step", alternating(
            at(0, rf=Foot(0.05, 0.34, pitch=12, lift=0.20), w=0.95, cp=-4, cy=14, la="run_front", ra="swing_back"),
            at(1, rf=Foot(0.02, -0.08), w=-0.7, cp=12, cy=-12, la="swing_back", ra="run_front", drop=0.04),
        ), 0.85),
        Move("side step", alternating(
            at(0, rf=Foot(-0.30, 0.02, yaw=-14), w=-0.5, cr=-10, cy=-14, la="cross", ra="side", drop=0.05),
            at(1, rf=Foot(0.0, 0.0), w=0.2, cr=4, cy=6, la="side_bent", ra="cross", drop=0.0),
        ), 0.55),
        Move("charlie rock", (
            at(0, rf=Foot(0.0, 0.22), w=-0.4, cp=4, cy=18, la="swing_front", ra="swing_back"),
            at(1, lf=Foot(0.02, 0.34, pitch=-8, lift=0.14), w=-0.95, cp=-6, cy=-14, la="swing_back", ra="swing_front"),
            at(2, lf=Foot(0.0, 0.0), w=0.5, cp=10, cy=14, la="swing_front", ra="swing_back"),
            at(3, rf=Foot(0.0, -0.22, pitch=26), w=0.7, cp=18, cy=-14, la="swing_back", ra="swing_front", drop=0.05),
        ), 0.8),
        Move("brooklyn uprock", (
            at(0, rf=Foot(0.02, 0.20), w=-0.5, cp=8, cy=22, la="guard", ra="jab"),
            at(1, w=0.4, cp=22, cy=-14, la="smash", ra="smash", drop=0.13),
            at(2, rf=Foot(-0.05, -0.04), w=0.3, cp=2, cy=-20, la="up_wide", ra="guard", drop=0.0),
            at(3, w=-0.4, cp=16, cy=10, la="cross", ra="low_out", drop=0.08),
        ), 0.9),
        Move("salsa rock", alternating(
            at(0, lf=Foot(-0.10, 0.20, yaw=-16), w=0.6, cy=-20, hy=-12, la="side_bent", ra="swing_back"),
            at(1, lf=Foot(0.04, 0.0), w=0.1, cy=14, hy=6, la="relaxed", ra="side_bent"),
        ), 0.5),
        Move("hip twist", (
            at(0, lf=Foot(0.06, 0.04, yaw=-24), w=0.6, hy=-22, cy=26, la="low_out", ra="cross"),
            at(1, rf=Foot(-0.06, 0.04, yaw=24), w=-0.6, hy=22, cy=-26, la="cross", ra="low_out"),
            at(2, lf=Foot(0.02, 0.0, yaw=0), w=0.6, hy=-22, cy=26, la="low_out", ra="cross", drop=0.05),
            at(3, rf=Foot(-0.02, 0.0, yaw=0), w=-0.4, hy=10, cy=-10, arms="side_bent", drop=0.0),
        ), 0.4),
        Move("outlaw two-step", (
            at(0, lf=Foot(-0.04, 0.24), w=0.6, cp=12, cy=-16, la="swing_back", ra="guard", drop=0.04),
            at(1, rf=Foot(-0.12, 0.10, pitch=10, lift=0.18), w=0.95, cp=0, cy=12, la="side_bent", ra="low_out"),
            at(2, rf=Foot(-0.14, -0.04), w=-0.6, cp=12, cy=16, la="guard", ra="swing_back", drop=0.04),
            at(3, lf=Foot(0.04, -0.02), w=0.0, cp=0, cy=0, arms="wide_low", drop=0.0),
        ), 0.65),
        Move("cross front", alternating(
            at(0, rf=Foot(0.20, 0.16, yaw=20), w=-0.7, cy=24, hy=14, la="side", ra="cross", cr=8),
            at(1, rf=Foot(-0.06, 0.02), w=0.1, cy=-6, hy=0, la="ready", ra="wide_low", cr=0),
        ), 0.45),
    ),
)  # fmt: skip
