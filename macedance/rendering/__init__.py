"""Camera, body mesh, rasterisers and video files."""
