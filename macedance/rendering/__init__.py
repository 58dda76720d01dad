"""Pictures and videos of dances: camera, body, two rasterisers, sound and mp4 files."""

from macedance.rendering.body import Body, MannequinBody
from macedance.rendering.frames import contact_sheet, dance_frames, save_png
from macedance.rendering.motion_to_video import KeypointRenderer, MeshDancer, MotionRenderer
from macedance.rendering.opengl import GlReport, gl_report
from macedance.rendering.probe import CodecReport, VideoFacts, codec_report, probe_video
from macedance.rendering.scene import OUTFITS, Outfit, Stage, outfit_for
from macedance.rendering.video import VideoWriter, render_dance

__all__ = [
    "OUTFITS",
    "Body",
    "CodecReport",
    "GlReport",
    "KeypointRenderer",
    "MannequinBody",
    "MeshDancer",
    "MotionRenderer",
    "Outfit",
    "Stage",
    "VideoFacts",
    "VideoWriter",
    "codec_report",
    "contact_sheet",
    "dance_frames",
    "gl_report",
    "outfit_for",
    "probe_video",
    "render_dance",
    "save_png",
]
