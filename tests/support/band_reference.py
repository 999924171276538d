"""The locality band in plain NumPy, which every fast form of it must equal."""

import numpy as np


def locality_band(centroids, signature, slots, eligible, load, tau, min_band=2):
    """(worker, similarity [n], in_band [n]), as those of `kernels.policies.locality_band`."""
    dots = centroids.astype(np.float64) @ signature.astype(np.float64)
    bound = slots >= 0
    similarity = np.where(bound, np.round(dots, 6)[slots], np.nan)
    candidates = np.flatnonzero(eligible & bound)
    in_band = eligible & ~bound
    if len(candidates):
        near = similarity[candidates] >= similarity[candidates].max() - tau
        if tau > 0 and near.sum() < min_band:
            by_similarity = np.argsort(-similarity[candidates], kind="stable")
            near[by_similarity[:min_band]] = True
        in_band[candidates[near]] = True
    if not in_band.any():
        return -1, similarity, in_band
    return int(np.argmin(np.where(in_band, load, np.inf))), similarity, in_band
