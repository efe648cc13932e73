#!/usr/bin/env bash
# scikit-learn 1.9.1: what it calls cosine depends on the length of the vectors. One whose length is below ten
# times the epsilon of its type, 1.2e-6 in float32, is taken for zero and not normalised, without a word: its
# cosine with itself is then the square of its length. So it is with all that takes the metric "cosine",
# nearest neighbours and t-SNE too. Embeddings of a network may be as short as that; its own unit vectors never are.
#
# Seen: (3, 4) and (4, 3), whose cosine is 0.96, times 1e-6 have the cosine 0.96 in float32, times 1e-7 2.4e-13, and
# that of the first with itself is 2.5e-13 (in float64 0.96 and 1). Of 60 vectors in three classes that lie apart,
# the nearest other is of the same class for each; of the same vectors, shrunk, for 1 in 3, as by chance.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "scikit-learn==1.9.1" "numpy==2.4.6" "scipy==1.17.0"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

pair = np.array([[3.0, 4.0], [4.0, 3.0]])
for kind, scale, itself, other in (
    (np.float32, 1e-6, 1.0, 0.96), (np.float32, 1e-7, 2.5e-13, 2.4e-13), (np.float64, 1e-7, 1.0, 0.96)
):
    found = cosine_similarity((pair * scale).astype(kind))[0]
    print(f"{kind.__name__} times {scale:g}: with itself {found[0]:.3g}, with the other {found[1]:.3g}")
    assert np.allclose(found, [itself, other], rtol=1e-5, atol=0), found

random, classes = np.random.default_rng(0), np.arange(60) % 3
apart = (np.eye(6)[classes] + 0.1 * random.normal(size=(60, 6))).astype(np.float32)
shares = []
for scale in (1.0, 1e-10):
    vectors = apart * np.float32(scale)
    # The first neighbour of an item is the item, where it is known by its cosine.
    index = NearestNeighbors(n_neighbors=1, metric="cosine").fit(vectors)
    near = index.kneighbors(return_distance=False)[:, 0]
    shares.append((classes[near] == classes).mean())
    print(f"times {scale:g}: the nearest other is of the same class for {shares[-1]:.0%}")
assert shares[0] == 1 and shares[1] < 0.6, shares
PYTHON
echo "as described: short vectors are not normalised"
