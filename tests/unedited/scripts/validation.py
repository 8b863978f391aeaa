"""Train with a validation set, log, keep the best checkpoint, go on from it."""

import csv
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return torch.from_numpy(self.images[index]).float().div(16), int(self.labels[index])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(64, 48)
        self.out = nn.Linear(48, 10)

    def forward(self, x):
        return self.out(F.relu(self.hidden(x)))


def train_one_epoch(model, loader, optimizer):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def validate(model, loader):
    model.eval()
    loss, correct = 0.0, 0
    for x, y in loader:
        with torch.no_grad():
            output = model(x)
            loss += F.cross_entropy(output, y, reduction="sum").item()
            correct += (output.argmax(1) == y).sum().item()
    return loss / len(loader.dataset), correct / len(loader.dataset)


def main():
    folder = Path(sys.argv[1] + ".run")
    if not folder.exists():
        os.makedirs(folder)
    torch.manual_seed(1)
    np.random.seed(1)
    x_train, x_val, y_train, y_val = train_test_split(*load_digits(return_X_y=True), test_size=0.25)
    train_loader = DataLoader(Digits(x_train, y_train), batch_size=64, shuffle=True)
    val_loader = DataLoader(Digits(x_val, y_val), batch_size=100)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    best = float("inf")
    with open(folder / "log.csv", "w", newline="") as file:
        log = csv.writer(file)
        log.writerow(["epoch", "loss", "accuracy"])
        for epoch in range(2):
            train_one_epoch(model, train_loader, optimizer)
            loss, accuracy = validate(model, val_loader)
            scheduler.step(loss)
            log.writerow([epoch, f"{loss:.6f}", f"{accuracy:.4f}"])
            print(f"epoch {epoch}  validation loss {loss:.4f}  accuracy {accuracy:.2%}")
            if loss < best:
                best = loss
                state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, folder / "new.pt")
                os.replace(folder / "new.pt", folder / "best.pt")

    checkpoint = torch.load(folder / "best.pt")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    train_one_epoch(model, train_loader, optimizer)
    torch.save(model.state_dict(), sys.argv[1])


if __name__ == "__main__":
    main()
