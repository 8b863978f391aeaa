"""A classifier of words with tens of thousands of outputs, whose sparse gradients cost what their rows do.

    sudo switchml bench script --workers 4 --rate 200mbit -- examples/words.py --workers 1,2,4
    switchml bench script --workers 2 -- examples/words.py --epochs 3

Which word stands between these four and those four? The text is torch's own source: code and documentation, which whoever
trains has. One of ten files is for the test. Words are looked up in a table, weighed by their place and added: a hidden layer
of 128. `full` computes all outputs, and its gradients have all rows. `sampled` computes those that the batch asks for and some
drawn at random, the same ones on all ranks, each made up for how likely it was drawn (Jean et al., ACL 2015); its gradients
have the rows that were looked up alone, and go through the all-reduce as sparse tensors. Both take the same optimizer and the
same batches.

Of an epoch over links some steps are timed, and made up to the whole; `--epochs` trains both forms to the end and tells how
often the first guess is right.
"""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import compared
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 128
SIDE = 4  # words on either side
BATCH = 512  # of all ranks together
DRAWN = 1024  # outputs, for a step
TEST = 8192
FORMS = ("sampled", "full")
RATE = 0.1
_OTHER = 0  # stands for all words that are no output


@dataclass(frozen=True)
class Text:
    """Words by number, int64, one file after another."""

    training: Tensor
    test: Tensor
    shares: Tensor  # of each word among those of the training, (outputs,)


@dataclass(frozen=True)
class Epoch:
    """What an epoch costs, by some of its steps.

    Attributes:
        seconds: of the slowest rank.
        megabytes: in and out over rank 0's link; 0 where there is none.
    """

    form: str
    system: str
    workers: int
    steps: int
    timed: int
    seconds: float
    megabytes: float


@dataclass(frozen=True)
class Precision:
    """How often the likeliest word was right, of unseen text, after each epoch."""

    form: str
    workers: int
    at_1: list[float]
    seconds: float


def read(every: int, outputs: int) -> compared.Arrays:
    """The source, in words by number: 0 for those that are not among the most frequent."""
    known: dict[str, int] = {}
    texts = [
        np.array([known.setdefault(word, len(known)) for word in re.findall(r"[A-Za-z_]+", source)], np.int64)
        for source in (file.read_text(errors="replace") for file in _files()[::every])
    ]
    training = np.concatenate([text for number, text in enumerate(texts) if number % 10 < 9])
    counts = np.bincount(training, minlength=len(known))
    frequent = np.argsort(-counts, kind="stable")[: outputs - 1]
    numbers = np.full(len(known), _OTHER, np.int32)
    numbers[frequent] = np.arange(1, len(frequent) + 1)
    test = np.concatenate(texts[9::10])
    return {name: numbers[part] for name, part in (("training", training), ("test", test))}


def _files() -> list[Path]:
    return sorted(Path(torch.__file__).parent.rglob("*.py"))


def text(folder: Path, every: int, outputs: int) -> Text:
    """Read once, then from a file."""
    found = compared.kept(
        folder / f"words-{torch.__version__}-{every}-{outputs}.npz", lambda: read(every, outputs)
    )
    training = torch.from_numpy(found["training"]).long()
    counts = torch.bincount(training, minlength=outputs).double()
    return Text(training, torch.from_numpy(found["test"]).long(), counts / counts.sum())


def places(words: Tensor, count: int, seed: int) -> Tensor:
    """Of words that are outputs, anywhere in a text, with words on both sides."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.arange(SIDE, len(words) - SIDE)
    inside = inside[words[inside] != _OTHER]
    return inside[torch.randperm(len(inside), generator=generator)[:count]]


AROUND = torch.tensor([step for step in range(-SIDE, SIDE + 1) if step])


class Words(nn.Module):
    """Words around in, scores of the one between out."""

    def __init__(self, outputs: int, sparse: bool) -> None:
        super().__init__()
        self.given = nn.Embedding(outputs, HIDDEN, sparse=sparse)
        self.weights = nn.Parameter(torch.ones(len(AROUND), HIDDEN))
        self.wanted = nn.Embedding(outputs, HIDDEN + 1, sparse=sparse)  # the last column is the bias
        nn.init.normal_(self.given.weight, std=0.1)
        nn.init.zeros_(self.wanted.weight)

    def hidden(self, around: Tensor) -> Tensor:
        """around: (batch, 2 SIDE). Returns (batch, HIDDEN + 1), ones at the end."""
        inside = torch.relu((self.given(around) * self.weights).sum(1))
        return F.pad(inside, (0, 1), value=1.0)

    def forward(self, around: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Scores of the outputs named, or of all: (batch, outputs)."""
        table = self.wanted.weight if outputs is None else self.wanted(outputs)
        return self.hidden(around) @ table.t()


class Training:
    """One rank's end of a training with `workers` ranks.

    Args:
        form: of the output layer, one of `FORMS`.
        data: the text.
        workers: ranks that take part.
        seed: the same on all.
        group: of these ranks; None = there is one.
    """

    def __init__(self, form: str, data: Text, workers: int, seed: int, group: Any) -> None:
        torch.manual_seed(seed)
        outputs = len(data.shares)
        self.sampled = form == "sampled"
        self.model = Words(outputs, sparse=self.sampled)
        self.optimizer = torch.optim.Adagrad(self.model.parameters(), lr=RATE, initial_accumulator_value=1e-4)
        self._data, self._group = data, group
        self._share = slice(dist.get_rank() * BATCH // workers, (dist.get_rank() + 1) * BATCH // workers)
        self._own = BATCH // workers
        self._drawn = torch.Generator().manual_seed(seed)  # the same on all ranks: so their rows are the same
        drawing = data.shares.pow(0.75)
        self._drawing = drawing / drawing.sum()

    def step(self, batch: Tensor) -> None:
        """One step; batch: places of all ranks together."""
        words, own = self._data.training, batch[self._share]
        around, wanted = words[own[:, None] + AROUND], words[own]
        self.optimizer.zero_grad()
        if self.sampled:
            scores, wanted = self._some(around, wanted)
        else:
            scores = self.model(around)
        (F.cross_entropy(scores, wanted, reduction="sum") / BATCH).backward()
        compared.sum_gradients(self.model.parameters(), self._group)
        self.optimizer.step()

    def _some(self, around: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of outputs that are wanted or drawn, and which of these are wanted."""
        drawn = torch.multinomial(self._drawing, DRAWN, replacement=True, generator=self._drawn)
        outputs, places = torch.unique(torch.cat([wanted, drawn]), return_inverse=True)
        absent = DRAWN * torch.log1p(-self._drawing[outputs]) + self._own * torch.log1p(
            -self._data.shares[outputs]
        )
        likely = torch.log(-torch.expm1(absent)).float()
        return self.model(around, outputs) - likely, places[: len(wanted)]

    @torch.no_grad()
    def precision(self, test: Tensor) -> float:
        """At 1, at places of the test."""
        words = self._data.test
        right = [
            self.model(words[some[:, None] + AROUND]).argmax(1) == words[some] for some in test.split(BATCH)
        ]
        return float(torch.cat(right).float().mean())


def timed(form: str, system: str, workers: int, data: Text, options: Any) -> Epoch:
    """Time some steps of an epoch. Called by all ranks."""
    group = compared.members(system, workers)
    seconds, moved = 0.0, 0
    if dist.get_rank() < workers:
        training = Training(form, data, workers, options.seed, group)
        batches = places(data.training, BATCH * (options.timed + 1), options.seed).split(BATCH)
        training.step(batches[0])
        if group is not None:
            dist.barrier(group)
        before, begin = compared.link_bytes(), time.perf_counter()
        for batch in batches[1:]:
            training.step(batch)
        seconds, moved = time.perf_counter() - begin, compared.link_bytes() - before
    steps = options.samples // BATCH
    whole = steps / options.timed
    seconds = compared.slowest(seconds) * whole
    compared.leave(group)
    epoch = Epoch(form, system, workers, steps, options.timed, seconds, moved * whole / 1e6)
    compared.say(
        f"{form:8} {workers} workers  {system if group is not None else 'alone':8}  {seconds:8.1f} s and "
        f"{epoch.megabytes:8.1f} MB an epoch of {steps} steps, by {options.timed} of them"
    )
    return epoch


def trained(form: str, data: Text, options: Any) -> Precision:
    """Train over all ranks to the end."""
    workers = dist.get_world_size()
    group = compared.members(options.systems.split(",")[0], workers)
    training = Training(form, data, workers, options.seed, group)
    test = places(data.test, TEST, options.seed)
    found, begin = [], time.perf_counter()
    for epoch in range(options.epochs):
        for batch in places(data.training, options.samples, options.seed + epoch).split(BATCH):
            training.step(batch)
        found.append(training.precision(test))
        compared.say(f"{form:8} epoch {epoch + 1}: precision at 1 {found[-1]:.2%}")
    compared.leave(group)
    return Precision(form, workers, found, time.perf_counter() - begin)


def draw(epochs: list[Epoch], title: str, path: Path) -> None:
    """Seconds and megabytes of an epoch, a group of bars a number of workers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9.0, 4.6), layout="constrained")
    several = list(dict.fromkeys((one.form, one.system) for one in epochs if one.workers > 1))
    forms = list(dict.fromkeys(one.form for one in epochs))
    counts = sorted({one.workers for one in epochs})
    for count in counts:
        here = [one for one in epochs if one.workers == count]
        width = 0.84 / len(here)
        for place, one in enumerate(here):
            kind = (one.form, one.system)
            colour = f"C{several.index(kind)}" if kind in several and count > 1 else "grey"
            name = " over ".join(kind) if count > 1 else f"{one.form}, alone"
            style = {"color": colour, "hatch": "//" * forms.index(one.form), "edgecolor": "white"}
            at = counts.index(count) - 0.42 + (place + 0.5) * width
            for axis, value in zip(axes, (one.seconds, one.megabytes), strict=True):
                if value:
                    bar = axis.bar(at, value, width * 0.92, label=name, **style)
                    axis.bar_label(bar, [f"{value:,.0f}"], padding=2, fontsize=6)
    for axis, label in zip(axes, ("seconds an epoch", "MB an epoch, in and out of a worker"), strict=True):
        axis.set_xticks(range(len(counts)), [f"{count} worker{'s' * (count > 1)}" for count in counts])
        axis.set_xlim(-0.6, len(counts) - 0.4)
        axis.set_yscale("log")
        axis.set_title(label, fontsize="medium")
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize="small"
    )
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=130)


def main() -> None:
    """One rank."""
    parser = compared.parser(__doc__)
    parser.add_argument("--workers", default="", help="numbers of workers that epochs are timed with: 1,2,4")
    parser.add_argument("--systems", default="gloo,float32,int8")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--outputs", type=int, default=32768)
    parser.add_argument("--samples", type=int, default=65536, help="of an epoch")
    parser.add_argument("--timed", type=int, default=4, help="steps that are timed of an epoch")
    parser.add_argument("--epochs", type=int, default=0, help="train both forms so long")
    parser.add_argument("--every", type=int, default=1, help="read every so many files of the source only")
    options = parser.parse_args()
    torch.sparse.check_sparse_tensor_invariants.disable()  # or torch warns of its own optimizer
    systems, forms = compared.names(options.systems), compared.names(options.forms, FORMS)
    compared.join(
        "sudo switchml bench script --workers 4 --rate 200mbit -- examples/words.py --workers 1,2,4"
    )
    try:
        data = text(options.data, options.every, options.outputs)
        title = (
            f"Which of {options.outputs:,} words of torch's source, hidden layer of {HIDDEN}, batch {BATCH} of all workers, "
            f"{compared.links()}"
        )
        compared.say(title)
        epochs = [
            timed(form, system, workers, data, options)
            for workers in (int(word) for word in options.workers.split(",") if word)
            for form in forms
            for system in (systems if workers > 1 else systems[:1])
        ]
        precision = [trained(form, data, options) for form in forms if options.epochs]
        compared.write(
            options.json,
            title=title,
            training_words=len(data.training),
            epochs=[asdict(one) for one in epochs],
            precision=[asdict(one) for one in precision],
        )
        if options.plot and epochs and dist.get_rank() == 0:
            draw(epochs, title, options.plot)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
