"""Balanced k-means over the signatures of requests, with scikit-learn's conventions."""

import inspect
import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.signature import TRANSFORMS, SignatureTransform
from eldr_service.fitting.lloyd import Progress, cluster, seed_centers
from eldr_service.fitting.transform_choice import WITHOUT_EVIDENCE, calibrated, held_out_scores


class BalancedKMeans:
    """Spherical k-means whose clusters hold at most ``ceil(n / n_clusters)`` requests each.

    Balance keeps one popular kind of request from filling a single worker. Each iteration assigns
    requests to centroids exactly, at the least total cosine distance that the capacity allows, and
    replaces each centroid by the normalised mean of its requests.

    Parameters
    ----------
    n_clusters : int
    transform : {"auto", "counts", "counts-idf", "sqrt"}
        How counts become signatures (`core.signature`). "auto" takes the one under which held-out
        requests would touch the fewest experts (`fitting.transform_choice`), and "sqrt" when there
        are fewer than ``2 * n_clusters`` requests.
    layer_mask : array_like of bool, shape [L], or of int, ascending; optional
        The layers that count; all by default.
    max_iter : int
    n_init : int
        Starts from different seeds, of which the least inertia is kept.
    random_state : int
        The same gives the same fit.

    Attributes
    ----------
    cluster_centers_ : ndarray of float32, shape [n_clusters, D]
        Rows of unit length; D = layers kept x E.
    labels_ : ndarray of int32, shape [n]
        Balanced, so not always the nearest centroid.
    inertia_ : float
        Sum of cosine distances ``1 - signature . centroid``.
    n_iter_ : int
        Iterations of the best start.
    transform_ : SignatureTransform
    transform_scores_ : dict of str to float
        With "auto", the held-out score of each transform in experts per layer, lower is better;
        else empty.
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
        counts: ArrayLike,
        initial_centers: ArrayLike | None = None,
        progress: Progress | None = None,
        geometry: ModelGeometry | None = None,
    ) -> Self:
        """Cluster requests.

        Parameters
        ----------
        counts : array_like of int, shape [n, L, E]
            Activation counts of n requests; the all-zero are assigned, but shape nothing.
        initial_centers : array_like of float, shape [n_clusters, D], optional
            Where to start from instead of k-means++, once whatever `n_init` is; normalised here.
        progress : callable of (iteration, iterations at most, inertia), optional
            Called after each iteration, over all starts.
        geometry : ModelGeometry, optional
            Of the model, for `transform_`. By default that of the counts with top_k 1, which has no
            part in the fit.

        Raises
        ------
        ValueError
            When a parameter or the counts are malformed, there are fewer requests than clusters, or
            no request has a signature.

        Warns
        -----
        UserWarning
            When idf is zero for more than half of the entries: requests so long that most of them
            touch every expert.
        """
        self._check_parameters()
        counts = _checked_counts(counts)
        n, num_layers, num_experts = counts.shape
        if n < self.n_clusters:
            raise ValueError(f"{self.n_clusters} clusters need as many requests, got {n}")
        geometry = geometry or ModelGeometry(num_layers, num_experts, top_k=1)
        _check_geometry(counts, geometry)
        self.transform_ = self._chosen_transform(counts, geometry)
        signatures = self.transform_.apply(counts)
        if not signatures.any():
            raise ValueError(f"no request has a signature under {self.transform_.name}: all zero")

        rng = np.random.default_rng(self.random_state)
        starts = self.n_init if initial_centers is None else 1
        best = None
        for start in range(starts):
            centers = (
                seed_centers(signatures, self.n_clusters, rng)
                if initial_centers is None
                else self._unit_centers(initial_centers)
            )
            report = progress and _over_starts(progress, start, starts)
            clustering = cluster(signatures, centers, self.max_iter, report)
            if best is None or clustering.inertia < best.inertia:
                best = clustering
        assert best is not None
        self.cluster_centers_ = best.centers
        self.labels_ = best.labels
        self.inertia_ = best.inertia
        self.n_iter_ = best.n_iter
        return self

    def predict(self, counts: ArrayLike) -> NDArray[np.int32]:
        """Nearest centroid by cosine of counts [n, L, E], whatever the balance; int32 [n].

        -1 where the norm is zero, as for a worker without a slot.
        """
        checked = _checked_counts(counts)
        _check_geometry(checked, self.transform_.geometry)
        signatures = self.transform_.apply(checked)
        nearest = (signatures @ self.cluster_centers_.T).argmax(axis=1)
        return np.where(signatures.any(axis=1), nearest, -1).astype(np.int32)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; `deep` is there for scikit-learn and changes nothing."""
        names = list(inspect.signature(type(self)).parameters)
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; ValueError for one that does not exist."""
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

    def _kept_layers(self, num_layers: int) -> NDArray[np.int64]:
        if self.layer_mask is None:
            return np.arange(num_layers)
        mask = np.asarray(self.layer_mask)
        if mask.dtype == np.bool_ and mask.shape == (num_layers,) and mask.any():
            return np.flatnonzero(mask)
        if (
            np.issubdtype(mask.dtype, np.integer)
            and mask.ndim == 1
            and mask.size
            and (np.diff(mask) > 0).all()
            and mask[0] >= 0
            and mask[-1] < num_layers
        ):
            return mask.astype(np.int64)
        raise ValueError(
            f"layer_mask must be {num_layers} booleans, not all False, or ascending layer numbers"
            f" below {num_layers}, got {self.layer_mask!r}"
        )

    def _chosen_transform(
        self, counts: NDArray[np.integer], geometry: ModelGeometry
    ) -> SignatureTransform:
        layers = self._kept_layers(geometry.num_layers)
        self.transform_scores_: dict[str, float] = {}
        name = self.transform
        if name == "auto" and len(counts) < 2 * self.n_clusters:
            name = WITHOUT_EVIDENCE
        elif name == "auto":
            self.transform_scores_ = held_out_scores(
                counts, geometry, layers, self.n_clusters, self.max_iter, self.random_state
            )
            name = min(self.transform_scores_, key=self.transform_scores_.__getitem__)
        transform = calibrated(name, counts, geometry, layers)
        unused = (transform.weights == 0).mean()
        if unused > 0.5:
            warnings.warn(
                f"idf is zero for {unused:.0%} of the entries: every request touches those experts,"
                " which drop out then; transform='auto' and 'sqrt' keep them",
                stacklevel=3,
            )
        return transform

    def _unit_centers(self, initial_centers: ArrayLike) -> NDArray[np.float32]:
        centers = np.asarray(initial_centers, dtype=np.float64)
        expected = (self.n_clusters, self.transform_.size)
        if centers.shape != expected:
            raise ValueError(
                f"initial_centers must have shape {list(expected)}, got {list(centers.shape)}"
            )
        norms = np.linalg.norm(centers, axis=1, keepdims=True)
        if not (np.isfinite(norms).all() and norms.all()):
            raise ValueError("initial_centers must be finite, and no row all zero")
        unit: NDArray[np.float32] = (centers / norms).astype(np.float32)
        return unit


def _checked_counts(counts: ArrayLike) -> NDArray[np.integer]:
    array = np.asarray(counts)
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"counts must be integers of shape [n, L, E], got {array.dtype} {list(array.shape)}"
        )
    if array.size and array.min() < 0:
        raise ValueError(f"counts must not be negative, got {array.min()}")
    return array


def _check_geometry(counts: NDArray[np.integer], geometry: ModelGeometry) -> None:
    if counts.shape[1:] != (geometry.num_layers, geometry.num_experts):
        raise ValueError(f"counts of shape {list(counts.shape)} are not of {geometry}")


def _over_starts(progress: Progress, start: int, starts: int) -> Progress:
    def report(iteration: int, max_iter: int, inertia: float) -> None:
        progress(start * max_iter + iteration, starts * max_iter, inertia)

    return report
