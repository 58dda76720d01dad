"""Moves of popping and locking, written for one side."""

from __future__ import annotations

from macedance.demo.moves import Foot, Move, Style, alternating, at

POPPING = Style(
    arms="hang", drop_m=0.03, bounce_m=0.012, rock=1.5, lean=2.0, stance_m=0.12, snap=0.45, lift_m=0.03,
    groove=Move("hold and tick", alternating(
        at(0, w=0.5, pop=8, cy=8, cr=4, la="side_bent", ra="hang"),
        at(1, w=0.1, pop=-6, cy=0, cr=0, la="ready", ra="relaxed"),
    ), 0.1),
    moves=(
        Move("fresno", alternating(
            at(0, w=-0.7, px=-0.02, cr=-10, cy=-16, pop=10, la="hang", ra="side_bent", ny=-18, rf=Foot(-0.10)),
            at(1, w=-0.2, px=0.0, cr=0, cy=0, pop=-10, la="hang", ra="hang", ny=0, drop=0.03),
        ), 0.3),
        Move("chest hit", (
            at(0, pop=18, cp=-8, arms="side_bent", np=-6, w=0.6, sl=8, sr=8),
            at(1, pop=-14, cp=10, arms="low_front", np=8, w=0.2, drop=0.05, sl=0, sr=0),
            at(2, pop=18, cp=-8, la="goal", ra="side_bent", np=-6, w=-0.6, drop=0.0, cy=10),
            at(3, pop=-14, cp=10, la="chest", ra="low_out", np=8, w=-0.2, drop=0.05, cy=-6),
        ), 0.55),
        Move("robot", (
            at(0, cy=-22, hy=-8, la="hook", ra="goal", ny=22, w=0.6, lf=Foot(0.07, 0.03, yaw=10)),
            at(1, cy=-22, hy=-8, la="goal", ra="hook", ny=-20, w=0.6, rf=Foot(0.0, 0.0, pitch=18), drop=0.03),
            at(2, cy=22, hy=8, la="goal", ra="hook", ny=-22, w=-0.6, rf=Foot(-0.07, 0.03, yaw=-10), drop=0.0),
            at(3, cy=22, hy=8, la="hook", ra="goal", ny=20, w=-0.6, lf=Foot(0.0, 0.0, pitch=18), drop=0.03),
        ), 0.8, snap=0.48),
        Move("arm wave", (
            at(0, la="whip_out", ra="low_out", sl=20, cr=12, slide=-12, w=0.8, ny=28, lf=Foot(0.08)),
            at(1, la="hook", ra="side", sl=0, sr=0, cr=4, slide=10, w=0.2, ny=10, pop=12, drop=0.04),
            at(2, la="side", ra="hook", sl=0, sr=20, cr=-4, slide=10, w=-0.2, ny=-10, pop=-8, drop=0.04),
            at(3, la="low_out", ra="whip_out", sl=0, sr=0, cr=-12, slide=-12, w=-0.8, ny=-28, pop=0, drop=0.0),
        ), 0.6, snap=0.66),
        Move("king tut", (
            at(0, la="goal", ra="cross", cy=16, ny=24, w=0.5, rf=Foot(-0.06)),
            at(1, la="cross", ra="goal", cy=-16, ny=-24, w=-0.5),
            at(2, la="overhead", ra="hook", cy=16, ny=24, w=0.6, drop=0.03, lf=Foot(0.0, 0.09)),
            at(3, la="hook", ra="overhead", cy=-16, ny=-24, w=-0.5, drop=0.03),
        ), 0.85, snap=0.48),
        Move("twist-o-flex", (
            at(0, ny=45, cy=10, hy=0, la="side_bent", ra="low_out", w=0.3, cr=6),
            at(1, ny=10, cy=40, hy=0, la="cross", ra="swing_back", w=0.5, drop=0.03, cr=0),
            at(2, ny=0, cy=16, hy=28, la="swing_back", ra="low_front", w=0.7, lf=Foot(0.06, 0.06, yaw=24), drop=0.0),
            at(3, ny=-10, cy=-16, hy=0, la="low_out", ra="side_bent", w=-0.4, lf=Foot(), pop=12),
        ), 0.35),
        Move("scarecrow", (
            at(0, arms="hook", cr=8, w=0.6, ny=0, pop=4, nr=8, lf=Foot(0.09, yaw=8)),
            at(1, la="goal", ra="hook", cr=-4, w=0.2, nr=-8, pop=-4),
            at(2, la="hook", ra="goal", cr=-8, w=-0.6, nr=-8, pop=4, rf=Foot(-0.08, yaw=-8)),
            at(3, arms="goal", cr=0, w=0.0, nr=0, pop=-4, drop=0.04),
        ), 0.9, snap=0.48),
        Move("boogaloo roll", (
            at(0, px=-0.06, pz=0.0, hr=10, cr=-8, w=-0.5, la="low_out", ra="relaxed", rf=Foot(-0.12)),
            at(1, px=0.0, pz=-0.06, hp=14, hr=0, cr=0, cp=6, w=0.0, arms="low_front", drop=0.05),
            at(2, px=0.06, pz=0.0, hr=-10, hp=0, cr=8, cp=0, w=0.5, la="relaxed", ra="low_out", drop=0.0),
            at(3, px=0.0, pz=0.05, hr=0, hp=-8, cr=0, cp=-6, w=0.0, arms="wide_low"),
        ), 0.4, snap=0.68),
        Move("side glide", alternating(
            at(0, lf=Foot(0.16, yaw=18, glide=True), w=0.75, cr=6, cy=8, la="side_bent", ra="hang", ny=20),
            at(1, rf=Foot(0.14, yaw=0, pitch=24, glide=True), w=0.6, cr=-4, cy=0, la="hang", ra="hang", ny=6, pop=8),
        ), 0.5, snap=0.68),
    ),
)  # fmt: skip

LOCKING = Style(
    arms="ready", drop_m=0.03, bounce_m=0.028, rock=3.0, lean=5.0, stance_m=0.13, snap=0.5, lift_m=0.034,
    groove=Move("bounce clap", alternating(
        at(0, w=0.5, cr=6, arms="ready", cy=8),
        at(1, w=0.2, cr=-2, arms="cross", cy=0),
    ), 0.1),
    moves=(
        Move("lock", (
            at(0, arms="flex", cp=-8, w=0.3, np=-4, lf=Foot(0.08)),
            at(1, arms="lock", cp=24, w=0.3, drop=0.08, np=-6),
            at(2, la="lock", ra="point_down", cp=12, w=-0.6, cr=-12, cy=-12, drop=0.03, np=-6),
            at(3, arms="guard", cp=-6, w=0.0, cr=0, cy=0, drop=0.0, np=0),
        ), 0.55),
        Move("point up", (
            at(0, la="hip", ra="cross_low", cy=18, w=0.6, cr=8),
            at(1, la="hip", ra="point_up", cy=-16, w=-0.6, cr=8, ny=-18, np=-14, rf=Foot(-0.12)),
            at(2, la="lock", ra="lock", cp=20, cy=0, w=0.0, cr=0, ny=0, np=0, drop=0.07),
            at(3, la="hip", ra="point_side", cp=0, cy=-12, w=-0.4, cr=4, ny=-24, drop=0.0),
        ), 0.75),
        Move("scooby walk", alternating(
            at(0, rf=Foot(-0.05, 0.20, pitch=-10, lift=0.10), w=0.95, cp=-10, cy=14, la="run_front", ra="run_back"),
            at(1, rf=Foot(-0.04, 0.06), w=-0.6, cp=14, cy=-12, drop=0.05, la="point_down", ra="flex"),
        ), 0.8),
        Move("skeeter rabbit", (
            at(0, rf=Foot(0.02, 0.32, pitch=8, lift=0.20), w=0.95, cp=-4, la="swing_front", ra="swing_back"),
            at(1, rf=Foot(0.04, -0.14, pitch=22), w=0.5, cp=14, la="swing_back", ra="swing_front", drop=0.04),
            at(2, rf=Foot(-0.06, 0.02), w=-0.4, cp=0, la="flex", ra="flex", drop=0.0),
            at(3, w=0.0, cp=22, arms="lock", drop=0.07),
        ), 0.85),
        Move("wrist twirl", alternating(
            at(0, la="hip", ra="shoulder", cy=-12, w=-0.6, cr=-6, ny=-12),
            at(1, la="hip", ra="point_side", cy=-18, w=-0.3, cr=8, ny=-22, drop=0.03),
        ), 0.3),
        Move("up-lock", (
            at(0, arms="lock", cp=22, drop=0.08, w=0.4),
            at(1, arms="goal", cp=-10, drop=0.0, w=0.4, np=-10, lf=Foot(0.08)),
            at(2, arms="lock", cp=22, drop=0.08, w=-0.4, np=-4),
            at(3, arms="up_wide", cp=-10, drop=0.0, w=-0.2, np=-12),
        ), 0.9),
        Move("give yourself five", (
            at(0, la="low_out", ra="point_side", cy=-20, w=-0.6, cr=-6, rf=Foot(-0.12)),
            at(1, la="cross", ra="front", cy=16, w=0.2, cr=4, cp=10, drop=0.05),
            at(2, la="point_side", ra="low_out", cy=20, w=0.6, cr=6, cp=0, drop=0.0),
            at(3, la="front", ra="cross", cy=-16, w=-0.2, cr=-4, cp=10, drop=0.05),
        ), 0.5),
        Move("stop and go", (
            at(0, lf=Foot(0.16, 0.05, yaw=14), w=0.7, cr=10, la="hip", ra="run_front", cy=-10),
            at(1, w=0.7, cr=4, cp=20, arms="lock", drop=0.07, cy=0),
            at(2, lf=Foot(0.0), w=-0.7, cr=-10, cp=0, la="run_front", ra="hip", cy=10, drop=0.0),
            at(3, w=-0.3, cr=0, cp=18, arms="lock", drop=0.07, cy=0),
        ), 0.45),
        Move("leo walk", alternating(
            at(0, rf=Foot(0.06, 0.20, yaw=10), w=-0.7, cy=18, hy=8, la="shoulder", ra="swing_back", cp=8),
            at(1, rf=Foot(-0.02, 0.0), w=0.4, cy=-6, hy=0, la="point_down", ra="ready", cp=0),
        ), 0.6),
    ),
)  # fmt: skip
