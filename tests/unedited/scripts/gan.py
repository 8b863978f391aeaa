"""A generator and a discriminator, each with an optimizer of its own."""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(5)
images, _ = load_digits(return_X_y=True)
loader = DataLoader(TensorDataset(torch.tensor(images / 8 - 1, dtype=torch.float32)), 100, shuffle=True)
netG = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 64), nn.Tanh())
netD = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
optimizerD = torch.optim.Adam(netD.parameters(), lr=2e-3, betas=(0.5, 0.999))
optimizerG = torch.optim.Adam(netG.parameters(), lr=2e-3, betas=(0.5, 0.999))
criterion = nn.BCEWithLogitsLoss()

for epoch in range(1):
    for (real,) in loader:
        n = real.size(0)
        netD.zero_grad()
        errD_real = criterion(netD(real), torch.ones(n, 1))
        errD_real.backward()
        fake = netG(torch.randn(n, 8))
        errD_fake = criterion(netD(fake.detach()), torch.zeros(n, 1))
        errD_fake.backward()
        optimizerD.step()

        netG.zero_grad()
        errG = criterion(netD(fake), torch.ones(n, 1))
        errG.backward()
        optimizerG.step()
    print(f"epoch {epoch}  Loss_D {errD_real.item() + errD_fake.item():.4f}  Loss_G {errG.item():.4f}")

torch.save({"G": netG.state_dict(), "D": netD.state_dict()}, sys.argv[1])
