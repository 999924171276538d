"""Fitting partitions: balanced k-means over signatures, and the recordings it learns from."""

from eldr_service.fitting.balanced_kmeans import BalancedKMeans
from eldr_service.fitting.partition import fit_partition
from eldr_service.fitting.recorded import Recording

__all__ = ["BalancedKMeans", "Recording", "fit_partition"]
