"""Motion: rotations, the SMPL-24 skeleton, the 151-d representation, files, and export."""
