"""A scikit-learn script whose import lines alone were changed, over three ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

pytest.importorskip("torch", reason="torch is in the extra `torch`")

SWITCHML = str(Path(sys.executable).with_name("switchml"))
SCRIPT = """
    import sys
    import numpy as np
    from switchml.learn import KMeans, LogisticRegression

    folder = sys.argv[1]
    X = np.load(folder + "/images.npy", mmap_mode="r")
    y = np.load(folder + "/names.npy")
    weights = np.linspace(0.5, 1.5, len(y))
    model = LogisticRegression(max_iter=15).fit(X, y, sample_weight=weights)
    clusters = KMeans(10, init=X[:10], n_init=1).fit(X, sample_weight=weights)
    found = np.concatenate([model.coef_.ravel(), clusters.cluster_centers_.ravel(), clusters.labels_])
    """
REST = """
    import os
    assert "torch" not in sys.modules, "the switch needs no torch"
    import torch.distributed
    torch.distributed.init_process_group("gloo")
    again = LogisticRegression(max_iter=15).fit(X, y, sample_weight=weights)
    assert np.allclose(again.coef_, model.coef_, rtol=1e-6, atol=1e-9)
    torch.distributed.destroy_process_group()
    np.save(f"{folder}/found{os.environ['RANK']}.npy", found)
    """


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_a_script_with_other_import_lines_fits_over_three_ranks(tmp_path: Path) -> None:
    images, names = load_digits(return_X_y=True)
    np.save(tmp_path / "images.npy", images.astype(np.uint8))
    np.save(tmp_path / "names.npy", names)
    script, account = tmp_path / "fit.py", tmp_path / "account.json"
    script.write_text(textwrap.dedent(SCRIPT + REST))
    words = [SWITCHML, "run", "-n", "3", "--json", str(account), "--", str(script), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, env=os.environ)
    assert done.returncode == 0, done.stderr
    found = [np.load(tmp_path / f"found{rank}.npy") for rank in range(3)]
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()

    weights = np.linspace(0.5, 1.5, len(names))
    model = LogisticRegression(max_iter=15).fit(images, names, sample_weight=weights)
    clusters = KMeans(10, init=images[:10], n_init=1).fit(images, sample_weight=weights)
    # In memory a small sum is one chunk, whatever its size; there is one an iteration, at least.
    chunks = json.loads(account.read_text())["traffic"]["counters"]["chunks_completed"]
    assert chunks >= model.n_iter_[0] + clusters.n_iter_
    slopes, rest = np.split(found[0], [model.coef_.size])
    centers, labels = np.split(rest, [clusters.cluster_centers_.size])
    np.testing.assert_allclose(slopes, model.coef_.ravel(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(centers, clusters.cluster_centers_.ravel(), atol=1e-9)
    np.testing.assert_array_equal(labels, clusters.labels_)
