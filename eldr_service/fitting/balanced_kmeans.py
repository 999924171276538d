"""Balanced k-means over the signatures of requests, with scikit-learn's conventions."""

import inspect
import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.signature import TRANSFORMS, SignatureTransform
from eldr_service.fitting.counts import Counts, checked_counts
from eldr_service.fitting.layer_choice import kept_layers
from eldr_service.fitting.lloyd import Progress, cluster
from eldr_service.fitting.starts import cluster_from_seeds, unit_centers
from eldr_service.fitting.transform_choice import (
    WITHOUT_EVIDENCE,
    ChoiceProgress,
    calibrated,
    choose_transform,
)


class BalancedKMeans:
    """Spherical k-means whose clusters hold at most ``ceil(n / n_clusters)`` requests each.

    Balance keeps one popular kind of request from filling a single worker. Each iteration assigns
    requests to centroids exactly, at the least total cosine distance that the capacity allows, and
    replaces each centroid by the normalised mean of its requests. Large sets are clustered starting
    from the result for a sample (`fitting.starts`). There is one thread per core, or
    ``NUMBA_NUM_THREADS``; the result is bitwise equal for any number of them.

    Parameters
    ----------
    n_clusters : int
    transform : {"auto", "counts", "counts-idf", "sqrt"}
        How counts become signatures (`core.signature`). "auto" takes the one with which held-out
        requests would touch the fewest experts (`fitting.transform_choice`), and "sqrt" if there
        are fewer than ``2 * n_clusters`` requests.
    layer_mask : array_like of bool, shape [L], or of int, ascending; optional
        The layers to use. By default all, unless "auto" finds that half of them do better.
    max_iter : int
    n_init : int
        Starts from different seeds, of which the one with the least inertia is kept; on the sample,
        if there is one.
    random_state : int
        Equal values give equal fits.

    Attributes
    ----------
    cluster_centers_ : ndarray of float32, shape [n_clusters, D]
        Rows of unit length; D = layers kept x E.
    labels_ : ndarray of int32, shape [n]
        Balanced, so not always the nearest centroid.
    inertia_ : float
        Sum of cosine distances ``1 - signature . centroid``.
    n_iter_ : int
        Iterations of the best start, without those on a sample.
    transform_ : SignatureTransform
    transform_scores_ : dict of str to float
        With "auto", the held-out score of each transform, and of each with half of the layers if
        those were tried, in experts per layer, lower is better; else empty.
    """

    def __init__(
        self,
        n_clusters: int,
        *,
        transform: str = "auto",
        layer_mask: ArrayLike | None = None,
        max_iter: int = 50,
        n_init: int = 1,
        random_state: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.transform = transform
        self.layer_mask = layer_mask
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state

    def fit(
        self,
        counts: ArrayLike | Any,
        initial_centers: ArrayLike | None = None,
        progress: Progress | None = None,
        geometry: ModelGeometry | None = None,
        decode_counts: ArrayLike | Any | None = None,
        choice_progress: ChoiceProgress | None = None,
    ) -> Self:
        """Cluster requests.

        Parameters
        ----------
        counts : array_like of int, shape [n, L, E], or sparse, shape [n, L * E]
            Activation counts of n requests; all-zero ones are assigned, but do not affect the
            fit. Sparse counts are a CSR matrix of scipy.sparse (others are converted) with column
            ``layer * E + expert``; they are never made dense, and need `geometry`.
        initial_centers : array_like of float, shape [n_clusters, D], optional
            Where to start instead of k-means++, once, whatever `n_init`; normalised here.
        progress : callable of (iteration, iterations at most, inertia), optional
            Called after each iteration, over all starts.
        geometry : ModelGeometry, optional
            The model's, for `transform_`. By default that of the counts with top_k 1, which does
            not affect the fit.
        decode_counts : as `counts`, optional
            What the decodes of the same requests picked: "auto" then scores by these, and tries
            layer masks.
        choice_progress : callable of (fits done, fits in all), optional
            Called while "auto" tries transforms, before `progress`.

        Raises
        ------
        ValueError
            A parameter or the counts are malformed, there are fewer requests than clusters, or no
            request has a signature.

        Warns
        -----
        UserWarning
            The idf is zero for more than half of the entries: requests so long that most of them
            touch every expert.
        """
        self._check_parameters()
        checked = checked_counts(counts, geometry)
        if len(checked) < self.n_clusters:
            raise ValueError(
                f"{self.n_clusters} clusters need as many requests, got {len(checked)}"
            )
        decodes = None
        if decode_counts is not None:
            decodes = checked_counts(decode_counts, checked.geometry, "decode_counts")
            if len(decodes) != len(checked):
                raise ValueError(
                    f"decode_counts must be of the same {len(checked)} requests, got {len(decodes)}"
                )
        self.transform_ = self._chosen_transform(checked, decodes, choice_progress)
        signatures = checked.signatures(self.transform_)
        if not signatures.whole().any():
            raise ValueError(f"no request has a signature under {self.transform_.name}: all zero")

        if initial_centers is None:
            rng = np.random.default_rng(self.random_state)
            best = cluster_from_seeds(
                signatures, self.n_clusters, self.max_iter, self.n_init, rng, progress
            )
        else:
            shape = self.n_clusters, self.transform_.size
            centers = unit_centers(np.asarray(initial_centers, np.float64), shape)
            best = cluster(signatures, centers, self.max_iter, progress)
        self.cluster_centers_ = best.centers
        self.labels_ = best.labels
        self.inertia_ = best.inertia
        self.n_iter_ = best.n_iter
        return self

    def predict(self, counts: ArrayLike | Any) -> NDArray[np.int32]:
        """Nearest centroid by cosine, ignoring balance; int32 [n].

        `counts` as for `fit`. -1 if the norm is zero, as for a worker without a slot.
        """
        checked = checked_counts(counts, self.transform_.geometry)
        signatures = checked.signatures(self.transform_)
        nearest = signatures.similarities(self.cluster_centers_).argmax(axis=1)
        return np.where(signatures.whole(), nearest, -1).astype(np.int32)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; `deep` exists for scikit-learn and has no effect."""
        names = list(inspect.signature(type(self)).parameters)
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; ValueError for an unknown one."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"no parameter {name!r}; there are {', '.join(known)}")
            setattr(self, name, value)
        return self

    def _check_parameters(self) -> None:
        for name in ("n_clusters", "max_iter", "n_init"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        allowed = ("auto", *TRANSFORMS)
        if self.transform not in allowed:
            raise ValueError(f"transform must be one of {allowed}, got {self.transform!r}")

    def _chosen_transform(
        self, counts: Counts, decodes: Counts | None, progress: ChoiceProgress | None
    ) -> SignatureTransform:
        num_layers = counts.geometry.num_layers
        given = None if self.layer_mask is None else kept_layers(self.layer_mask, num_layers)
        layers = np.arange(num_layers) if given is None else given
        self.transform_scores_: dict[str, float] = {}
        name = self.transform
        if name == "auto" and len(counts) < 2 * self.n_clusters:
            name = WITHOUT_EVIDENCE
        elif name == "auto":
            name, layers, self.transform_scores_ = choose_transform(
                counts, decodes, given, self.n_clusters, self.max_iter, self.random_state, progress
            )
        transform = calibrated(name, counts, layers)
        unused = (transform.weights == 0).mean()
        if unused > 0.5:
            warnings.warn(
                f"idf is zero for {unused:.0%} of the entries: every request touches those experts,"
                " which are then ignored; transform='auto' and 'sqrt' keep them",
                stacklevel=3,
            )
        return transform
