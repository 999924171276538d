"""Fitting partitions: balanced k-means over signatures."""

from eldr_service.fitting.balanced_kmeans import BalancedKMeans
from eldr_service.fitting.partition import fit_partition

__all__ = ["BalancedKMeans", "fit_partition"]
