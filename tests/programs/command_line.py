"""A script with argparse, seeds, a device, a log, and a `main` that trains and tests, as in the examples of PyTorch."""

import argparse
import logging
import math
import random
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from seeded import seeded
from torch.optim.lr_scheduler import StepLR


class AverageMeter:
    """Computes and stores the average and current value."""

    def __init__(self, name, fmt=":f"):
        self.name, self.fmt = name, fmt
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count

    def __str__(self):
        fmtstr = "{name} {val" + self.fmt + "} ({avg" + self.fmt + "})"
        return fmtstr.format(**self.__dict__)


def accuracy(output, target, topk=(1,)):
    """Computes the accuracy over the k top predictions."""
    with torch.no_grad():
        maxk, batch_size = max(topk), target.size(0)
        _, pred = output.topk(maxk, 1, True, True)
        pred = pred.t()
        correct = pred.eq(target.view(1, -1).expand_as(pred))
        return [correct[:k].reshape(-1).float().sum(0, keepdim=True).mul_(100.0 / batch_size) for k in topk]


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(seed)
        torch.cuda.manual_seed_all(seed)


class Net(nn.Module):
    def __init__(self, dropout):
        super(Net, self).__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, 1), nn.Conv2d(4, 8, 3, 1)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.fc1, self.fc2 = nn.Linear(72, 16), nn.Linear(16, 6)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = torch.flatten(x, 1)
        x = self.dropout2(F.relu(self.fc1(x)))
        return F.log_softmax(self.fc2(x), dim=1)


def train(args, model, device, batches, optimizer, epoch, losses, top1):
    model.train()
    for batch_idx, (data, target) in enumerate(batches):
        data, target = data.to(device, non_blocking=True), target.to(device)
        optimizer.zero_grad()
        output = model(data)
        loss = F.nll_loss(output, target)
        loss.backward()
        optimizer.step()
        acc1, _acc5 = accuracy(output, target, topk=(1, 5))
        losses.update(loss.item(), data.size(0))
        top1.update(acc1[0], data.size(0))
        if batch_idx % args.log_interval == 0:
            logging.info("epoch %d loss %.6f", epoch, loss)
            if args.dry_run:
                break


def main(argv=("--epochs", "2", "--lr", "0.5", "--log-interval", "2", "--no-accel")):
    parser = argparse.ArgumentParser(description="Small images")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    parser.add_argument("--epochs", type=int, default=14, metavar="N")
    parser.add_argument("--lr", type=float, default=1.0, metavar="LR")
    parser.add_argument("--gamma", type=float, default=0.7, metavar="M")
    parser.add_argument("--no-accel", action="store_true")
    parser.add_argument("--dry-run", action="store_true", default=False)
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--log-interval", type=int, default=10, metavar="N")
    args = parser.parse_args(list(argv))
    use_cuda = not args.no_accel and torch.cuda.is_available()
    seed_everything(args.seed)
    device = torch.device("cuda" if use_cuda else "cpu")
    kwargs = {"num_workers": 1, "pin_memory": True} if use_cuda else {}
    rng = np.random.default_rng(args.seed)
    images = torch.from_numpy(rng.random((48, 1, 10, 10))).float()
    targets = (images[:, 0, :3].mean((1, 2)) * 1000).long() % 6
    dataset = torch.utils.data.TensorDataset(images, targets)
    batches = torch.utils.data.DataLoader(dataset, batch_size=args.batch_size, **kwargs)
    model = seeded(Net(0.0)).to(device)
    optimizer = optim.Adadelta(model.parameters(), lr=args.lr)
    scheduler = StepLR(optimizer, step_size=1, gamma=args.gamma)
    losses, top1, start, records = AverageMeter("Loss", ":.4e"), AverageMeter("Acc@1", ":6.2f"), time.time(), []
    for epoch in range(1, args.epochs + 1):
        train(args, model, device, batches, optimizer, epoch, losses, top1)
        scheduler.step()
        print(f"Epoch: [{epoch}]", losses, top1)
        records.append(losses.avg)
    assert math.isfinite(losses.avg) and time.time() >= start
    n_params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"number of params (M): {n_params / 1.0e6:.4f} lr {scheduler.get_last_lr()}")
    return {"records": records, "top1": top1.avg, "fc2": model.fc2.weight}
