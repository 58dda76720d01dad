"""Metrics of videos against the true videos: FVD, KVD, SSIM, PSNR and LPIPS."""
