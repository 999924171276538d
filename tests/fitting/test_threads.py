import os
import subprocess
import sys

import pytest

# Large enough to be shared out among threads: similarities, sums and signatures alike.
FIT = """
import hashlib
import numpy as np
from scipy import sparse
from eldr_service.core.geometry import ModelGeometry
from eldr_service.fitting import BalancedKMeans

rng = np.random.default_rng(0)
taste = rng.gamma(0.5, size=(7, 24, 64))
counts = rng.poisson(taste[rng.integers(7, size=1203)]).astype(np.uint32)
decode = rng.poisson(counts / 2 + 0.1)
geometry = ModelGeometry(24, 64, 4)
thin = sparse.csr_array(counts.reshape(len(counts), -1))
digest = hashlib.sha256()
for kmeans in (
    BalancedKMeans(13, n_init=2, max_iter=6).fit(counts, decode_counts=decode),
    BalancedKMeans(13, transform="sqrt", max_iter=6).fit(thin, geometry=geometry),
):
    digest.update(kmeans.cluster_centers_.tobytes() + kmeans.labels_.tobytes())
    digest.update(repr((kmeans.inertia_, kmeans.n_iter_, kmeans.transform_scores_)).encode())
    digest.update(kmeans.predict(counts).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.timeout(600)
def test_the_same_bits_whatever_the_number_of_threads():
    digests = set()
    for numba_threads, blas_threads in ((1, 1), (2, 1), (5, 2)):
        threads = {
            "NUMBA_NUM_THREADS": str(numba_threads),
            "OPENBLAS_NUM_THREADS": str(blas_threads),
        }
        told = subprocess.run(
            [sys.executable, "-c", FIT], env=os.environ | threads, capture_output=True, text=True
        )
        assert told.returncode == 0, told.stderr
        digests.add(told.stdout)
    assert len(digests) == 1
