"""A GAN of points on a line: two optimizers, detach, labels of real and fake."""

import numpy as np
import torch
import torch.nn as nn
from seeded import seeded

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4
rng = np.random.default_rng(0)


def weights_init(m):
    classname = m.__class__.__name__
    if classname.find("Linear") != -1:
        m.weight.data.mul_(1.5)
        if m.bias is not None:
            m.bias.data.fill_(0)
    elif classname.find("BatchNorm") != -1:
        nn.init.ones_(m.weight)


netG = seeded(
    nn.Sequential(nn.Linear(3, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2), nn.Tanh())
).to(device)
netD = seeded(nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2, inplace=True), nn.Linear(16, 1), nn.Sigmoid()), 1)
netD = netD.to(device)
netG.apply(weights_init)
criterion = nn.BCELoss()
optimizerD = torch.optim.Adam(netD.parameters(), lr=0.01, betas=(0.5, 0.999))
optimizerG = torch.optim.Adam(netG.parameters(), lr=0.01, betas=(0.5, 0.999))
real_label, fake_label = 1.0, 0.0


def train_step(real, fake):
    b_size = real.size(0)
    label = torch.full((b_size,), real_label, dtype=torch.float, device=real.device)
    netD.zero_grad()
    output = netD(real).view(-1)
    errD_real = criterion(output, label)
    errD_real.backward()
    D_x = output.mean()
    label.fill_(fake_label)
    output = netD(fake.detach()).view(-1)
    errD_fake = criterion(output, label)
    errD_fake.backward()
    D_G_z1 = output.mean()
    optimizerD.step()
    return errD_real.detach() + errD_fake.detach(), D_x.detach(), D_G_z1.detach()


def generator_step(fake):
    netG.zero_grad()
    label = torch.full((fake.size(0),), real_label, dtype=torch.float, device=fake.device)
    output = netD(fake).view(-1)
    errG = criterion(output, label)
    errG.backward()
    optimizerG.step()
    return errG, output.mean()


def main():
    G_losses, D_losses = [], []
    for i in range(12):
        t = torch.from_numpy(rng.uniform(-1, 1, (16, 1))).float().to(device)
        real = torch.cat([t, 0.5 * t], 1)
        noise = torch.from_numpy(rng.standard_normal((16, 3)).astype("float32")).to(device)
        fake = netG(noise)
        errD, D_x, D_G_z1 = (v.item() for v in train_step(real, fake))
        errG, D_G_z2 = (v.item() for v in generator_step(fake))
        if i % 6 == 0:
            print(
                "[%d] Loss_D: %.4f Loss_G: %.4f D(x): %.4f D(G(z)): %.4f / %.4f" % (i, errD, errG, D_x, D_G_z1, D_G_z2)
            )
        G_losses.append(errG)
        D_losses.append(errD)
    netG.eval()
    samples = netG(torch.eye(3, device=device))
    return {"G": G_losses, "D": D_losses, "samples": samples, "grad": netD[0].weight.grad}
