"""Own autograd functions: a sign with a straight-through gradient, a reversed gradient, a vector-quantised code."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded
from torch.autograd import Function

RTOL = 1e-4


class Binarize(Function):
    @staticmethod
    def forward(ctx, input):
        ctx.save_for_backward(input)
        return input.sign()

    @staticmethod
    def backward(ctx, grad_output):
        (input,) = ctx.saved_tensors
        grad_input = grad_output.clone()
        grad_input[input.ge(1)] = 0
        grad_input[input.le(-1)] = 0
        return grad_input


class GradReverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.neg() * ctx.alpha, None


class LinearFunction(Function):
    """The linear function of PyTorch's notes on extending."""

    @staticmethod
    def forward(ctx, input, weight, bias=None):
        ctx.save_for_backward(input, weight, bias)
        output = input.mm(weight.t())
        if bias is not None:
            output += bias.unsqueeze(0).expand_as(output)
        return output

    @staticmethod
    def backward(ctx, grad_output):
        input, weight, bias = ctx.saved_tensors
        grad_input = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = grad_output.mm(weight)
        if ctx.needs_input_grad[1]:
            grad_weight = grad_output.t().mm(input)
        if bias is not None and ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum(0)
        return grad_input, grad_weight, grad_bias


class VectorQuantizer(nn.Module):
    def __init__(self, n, dim):
        super().__init__()
        self.embedding = nn.Embedding(n, dim)
        self.embedding.weight.data.uniform_(-1 / n, 1 / n)

    def forward(self, z):
        d = torch.sum(z**2, dim=1, keepdim=True) + torch.sum(self.embedding.weight**2, dim=1)
        d = d - 2 * torch.matmul(z, self.embedding.weight.t())
        indices = torch.argmin(d, dim=1).unsqueeze(1)
        encodings = torch.zeros(indices.shape[0], self.embedding.num_embeddings, device=z.device)
        encodings.scatter_(1, indices, 1)
        quantized = torch.matmul(encodings, self.embedding.weight).view(z.shape)
        loss = F.mse_loss(quantized, z.detach()) + 0.25 * F.mse_loss(quantized.detach(), z)
        quantized = z + (quantized - z).detach()
        avg_probs = torch.mean(encodings, dim=0)
        perplexity = torch.exp(-torch.sum(avg_probs * torch.log(avg_probs + 1e-10)))
        return loss, quantized, perplexity, indices


def main():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((32, 4))).float()
    y, domain = (x[:, 0] > 0).long(), torch.arange(32).remainder(2).float()
    net, critic = seeded(nn.Linear(4, 6)), seeded(nn.Linear(6, 1), 1)
    head, vq = seeded(nn.Linear(6, 2), 2), VectorQuantizer(8, 2)
    seeded(vq, 3)
    params = [*net.parameters(), *critic.parameters(), *head.parameters(), *vq.parameters()]
    optimizer = torch.optim.SGD(params, lr=0.1)
    log = []
    for step in range(5):
        alpha = 2.0 / (1.0 + np.exp(-10 * step / 5)) - 1
        features = LinearFunction.apply(x, net.weight, net.bias)
        binary = Binarize.apply(features)
        vq_loss, quantized, perplexity, indices = vq(features[:, :2])
        adversary = F.binary_cross_entropy_with_logits(critic(GradReverse.apply(features, alpha)).squeeze(1), domain)
        loss = F.cross_entropy(head(binary + F.pad(quantized, (0, 4))), y) + vq_loss + adversary
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.append([loss.item(), adversary.item(), perplexity.item()])
    small = torch.tensor(rng.standard_normal((3, 4)), requires_grad=True)
    weight = torch.tensor(rng.standard_normal((2, 4)), requires_grad=True)
    print(torch.autograd.gradcheck(LinearFunction.apply, (small, weight), eps=1e-6, atol=1e-4))
    print(" ".join(f"{v:.4f}" for v in log[-1]))
    return {
        "log": log,
        "indices": indices,
        "net": net.weight,
        "critic": critic.weight.grad,
        "codes": vq.embedding.weight,
    }
