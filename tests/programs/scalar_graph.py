"""A scalar autograd engine, checked against the library's own."""

import math

import numpy as np
import torch


class Value:
    def __init__(self, data, children=()):
        self.data, self.grad, self._backward, self._prev = data, 0.0, lambda: None, set(children)

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        out = Value(self.data + other.data, (self, other))

        def _backward():
            self.grad += out.grad
            other.grad += out.grad

        out._backward = _backward
        return out

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        out = Value(self.data * other.data, (self, other))

        def _backward():
            self.grad += other.data * out.grad
            other.grad += self.data * out.grad

        out._backward = _backward
        return out

    def __pow__(self, k):
        out = Value(self.data**k, (self,))

        def _backward():
            self.grad += k * self.data ** (k - 1) * out.grad

        out._backward = _backward
        return out

    def relu(self):
        out = Value(max(self.data, 0.0), (self,))

        def _backward():
            self.grad += (out.data > 0) * out.grad

        out._backward = _backward
        return out

    def tanh(self):
        out = Value(math.tanh(self.data), (self,))

        def _backward():
            self.grad += (1 - out.data**2) * out.grad

        out._backward = _backward
        return out

    def backward(self):
        topo, visited = [], set()

        def build(v):
            if v not in visited:
                visited.add(v)
                for child in v._prev:
                    build(child)
                topo.append(v)

        build(self)
        self.grad = 1.0
        for v in reversed(topo):
            v._backward()

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        return other + (-self)

    def __truediv__(self, other):
        return self * other**-1

    def __rtruediv__(self, other):
        return other * self**-1


def expression(a, b):
    c = a + b
    d = a * b + b**3
    c = c + c + 1
    c = c + 1 + c + (-a)
    d = d + d * 2 + (b + a).relu()
    d = d + 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2.0
    return g + 10.0 / f + (a * b).tanh()


def main():
    rng = np.random.default_rng(3)
    values, grads = [], []
    for x, y in rng.uniform(-3, 3, (5, 2)).tolist():
        a, b = Value(x), Value(y)
        g = expression(a, b)
        g.backward()
        ta = torch.tensor([x]).double()
        tb = torch.Tensor.double(torch.tensor([y]))
        ta, tb = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.double)
        ta.requires_grad, tb.requires_grad = True, True
        tg = expression(ta, tb)
        tg.backward()
        tol = 1e-6
        assert abs(g.data - tg.data.item()) < tol * abs(g.data)
        assert abs(a.grad - ta.grad.item()) < tol * max(1, abs(a.grad))
        assert abs(b.grad - tb.grad.item()) < tol * max(1, abs(b.grad))
        values.append(tg.detach())
        grads.append([ta.grad.item(), tb.grad.item()])
        print(f"{g.data:.4f} {a.grad:.4f} {b.grad:.4f}")
    return {"values": torch.stack(values), "grads": torch.tensor(grads, dtype=torch.float64)}
