"""A perceptron with a bias computes NAND, and NANDs make an adder.

(F. Rosenblatt, 1958; the construction as in M. Nielsen, Neural Networks and Deep Learning, chapter 1)
"""

from __future__ import annotations

import deepcore as dc

WEIGHT = dc.tensor([-2.0, -2.0])
BIAS = dc.tensor(3.0)


def nand(a, b):
    """1 where w·x + b > 0, else 0, for bits a and b (tensors of any one shape)."""
    x = dc.stack([a, b], -1)
    return (x @ WEIGHT + BIAS > 0).float()


def add_bits(a, b, carry):
    """(sum, carry) of three bits, with nine perceptrons."""
    n1 = nand(a, b)
    half = nand(nand(a, n1), nand(b, n1))
    n2 = nand(half, carry)
    total = nand(nand(half, n2), nand(carry, n2))
    return total, nand(n1, n2)


def to_bits(number, width):
    """The bits of whole numbers, lowest first."""
    return [((number // 2**i) % 2).float() for i in range(width)]


def add(a, b, width: int = 8):
    """a + b for tensors of whole numbers below 2**width, one bit after the other."""
    carry = dc.zeros_like(a, dtype=dc.float32)
    total = dc.zeros_like(a)
    for i, (bit_a, bit_b) in enumerate(zip(to_bits(a, width), to_bits(b, width))):
        bit, carry = add_bits(bit_a, bit_b, carry)
        total = total + bit.long() * 2**i
    return total + carry.long() * 2**width


def main() -> None:
    a, b = dc.tensor([0.0, 0.0, 1.0, 1.0]), dc.tensor([0.0, 1.0, 0.0, 1.0])
    print("a b | a NAND b")
    for row in zip(a.tolist(), b.tolist(), nand(a, b).tolist()):
        print("{:.0f} {:.0f} | {:.0f}".format(*row))
    x, y = dc.tensor([19, 100, 255]), dc.tensor([23, 28, 255])
    for row in zip(x.tolist(), y.tolist(), add(x, y).tolist()):
        print("{} + {} = {}".format(*row))


if __name__ == "__main__":
    main()
