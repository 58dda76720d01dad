"""Music: decoding, the 35-d librosa features, beats."""
