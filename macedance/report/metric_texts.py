"""What each metric and preset is, in the words of the pages: for readers who have not read the papers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "as reference", ""]


@dataclass(frozen=True)
class MetricText:
    """How a metric is explained.

    Args:
        text: What it is, one clause.
        better: Which way is better; ``as reference``: neither, real dances say what is right.
        unit: Unit of its values.
    """

    text: str
    better: Better = ""
    unit: str = ""


_MOTION: dict[str, MetricText] = {
    "fid_k": MetricText("Fréchet distance of kinetic features (energies of the joints)", "lower"),
    "fid_g": MetricText("Fréchet distance of geometric features (32 questions about the pose)", "lower"),
    "div_k": MetricText("mean distance between two clips, kinetic features", "as reference"),
    "div_g": MetricText("mean distance between two clips, geometric features", "as reference"),
    "bas": MetricText("beat alignment: how near a motion beat is to each music beat, 0 to 1", "higher"),
    "bas_motion": MetricText("beat alignment the other way: how near a music beat is to each motion beat", "higher"),
    "bas_shuffled": MetricText("every dance against every other song's beats: the level of chance"),
    "beat_precision": MetricText("motion beats that a music beat answers within 70 ms, one to one", "higher"),
    "beat_coverage": MetricText("music beats that a motion beat answers within 70 ms, one to one", "higher"),
    "beat_f1": MetricText("harmonic mean of precision and coverage", "higher"),
    "minima_rate": MetricText("motion beats per second; jitter raises it, and the beat scores with it", "as reference"),
    "foot_skating": MetricText("share of contact frames in which the foot slides", "lower"),
    "pfc": MetricText("physical foot contact: feet that move while the body accelerates", "lower"),
    "pbc": MetricText("physical body contact: hands, head and feet against the body's acceleration", "as reference"),
    "jerk": MetricText("mean third derivative of the joints' positions", "as reference", "m/s³"),
    "bone_length_variation": MetricText("largest change of a bone's length, relative", "lower"),
    "floor_penetration_m": MetricText("how far a joint goes below the floor", "lower"),
    "genre_accuracy": MetricText("share of dances that a classifier takes for the genre asked for", "higher"),
    "mm_distance": MetricText("distance of motion and text in a joint embedding", "lower"),
}

_VIDEO: dict[str, MetricText] = {
    "imaging_quality": MetricText("VBench: MUSIQ's opinion of the single frames, 0 to 100", "higher"),
    "aesthetic_quality": MetricText("VBench: LAION's aesthetic head on CLIP, 0 to 100", "higher"),
    "subject_consistency": MetricText("VBench: DINO features from frame to frame, 0 to 100", "higher"),
    "background_consistency": MetricText("VBench: CLIP features from frame to frame, 0 to 100", "higher"),
    "motion_smoothness": MetricText("VBench: frames against those interpolated between neighbours", "higher"),
    "temporal_flickering": MetricText("VBench: 100 less the mean change between frames; a still picture has 100"),
    "person_motion": MetricText("how much the person moves, the camera's taken off", "as reference", "body heights/s"),
    "warp_error": MetricText("what changes between frames beside the motion itself, of a pixel's range", "lower", "%"),
    "warp_error_person": MetricText("the same inside the person's box", "lower", "%"),
    "warp_error_background": MetricText("the same outside the person's box", "lower", "%"),
    "warp_valid": MetricText("share of pixels that both frames show: those that the warp error is of", "as reference"),
    "person_identity": MetricText(
        "DINO similarity of the person to the reference picture or the first frame", "higher"
    ),
    "person_identity_p10": MetricText("the same, of the worst tenth of the frames", "higher"),
    "face_similarity": MetricText("similarity of the face to the reference picture's", "higher"),
    "face_similarity_p10": MetricText("the same, of the worst tenth of the frames", "higher"),
    "face_drift": MetricText("how the face's similarity changes over the video", "as reference", "1/s"),
    "face_rate": MetricText("share of frames in which a face is found", "as reference"),
    "pck_05": MetricText("share of keypoints within 5% of the body's size of where they were driven to", "higher"),
    "pck_10": MetricText("share of keypoints within 10% of the body's size of where they were driven to", "higher"),
    "oks": MetricText("object keypoint similarity to the driving keypoints, COCO's scales", "higher"),
    "keypoint_error": MetricText("mean distance to the driving keypoints, in body sizes", "lower"),
    "missing": MetricText("share of the driving keypoints that are not found in the video", "lower"),
    "jitter_ratio": MetricText("jitter of the keypoints over that of the driving ones; 1 is none added", "lower"),
    "contact_error": MetricText("1 less the overlap of the feet's contacts, wanted and seen", "lower"),
    "skate_speed": MetricText("speed of the feet while they should stand", "lower", "m/s"),
    "fvd": MetricText("Fréchet distance of I3D features of videos", "lower"),
    "fvd_inf": MetricText("the same, extrapolated to endless samples", "lower"),
    "kvd": MetricText("kernel distance of I3D features, unbiased", "lower"),
    "ssim": MetricText("structural similarity to the true frames", "higher"),
    "psnr": MetricText("peak signal to noise against the true frames", "higher", "dB"),
    "lpips": MetricText("perceptual distance to the true frames", "lower"),
}

METRIC_TEXTS: Mapping[str, MetricText] = {**_MOTION, **_VIDEO}

PRESET_TEXTS: Mapping[str, str] = {
    "clean": "Ours: seconds and metres (keypoints: torso lengths) instead of frames and pixels, the correct "
    "acceleration, standardised by the reference. To be compared within this preset alone.",
    "bailando_aist": "As Bailando's scripts print for AIST++ (60 fps, the first 20 s), their flaws included.",
    "lodge_finedance": "As LODGE's scripts print for FineDance (30 fps, 22 joints, the first 1024 frames), their flaws "
    "included.",
    "megadance": "As MEGADance's scripts print (30 fps, windows of 1024 frames), their flaws included.",
    "mace3d": "As MACE-Dance's 3-D script prints (30 fps, slices of 1200 frames, the dancer turned on the side), its "
    "flaws included.",
    "mace2d": "As MACE-Dance's 2-D protocol prints (16 fps, the first 64 frames, pixels). Each set is standardised by "
    "itself: it does not see how far a dance moves.",
    "vbench": "VBench's six dimensions, times 100. They reward stillness: read them beside the person's motion.",
    "honest": "What VBench does not see: whether the person moves, stays the same person and follows the pose.",
    "styleganv": "FVD as StyleGAN-V's code computes it, with its preprocessing.",
    "center_crop": "FVD on the resized centre of the frames.",
}


#: Units of keypoints, which are no metres.
_PLANAR_UNITS: Mapping[str, str] = {"jerk": "torso lengths/s³"}


def unit_of(key: str, kind: str = "") -> str:
    """The unit of a key's values; ``kind`` is the result's, see ProtocolResult."""
    return _PLANAR_UNITS.get(key, text_of(key).unit) if kind == "keypoints" else text_of(key).unit


def text_of(key: str) -> MetricText:
    """What is known of a key, or of the longest known one that it extends (``motion_smoothness_x``).

    A key that is not known at all is explained by nothing.
    """
    known = [name for name in METRIC_TEXTS if key == name or key.startswith(f"{name}_")]
    return METRIC_TEXTS[max(known, key=len)] if known else MetricText("")
