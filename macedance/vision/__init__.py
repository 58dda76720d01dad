"""Looking at videos: their frames, frozen networks, people, keypoints, faces and optical flow."""
