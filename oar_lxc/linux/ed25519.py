"""Make key pairs of ed25519 for OpenSSH and dropbear, without a program or a library.

Each container gets a key while its job waits. A key takes 0.5 ms of processor time here, after
10 ms for this module and its table; a process of ssh-keygen takes 9 ms. Python's standard library
has no ed25519. Debian's python3-cryptography would be one more package on each node, and takes
110 ms to load, as long as 200 keys take here.

This module makes keys; it does not sign or verify. The time to make a key depends on the key, so
measurements of it could reveal the key. But each key is made once, by a process of its own user.

Source: RFC 8032; OpenSSH's PROTOCOL.key; signkey.c of dropbear.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

KIND = b"ssh-ed25519"
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_BASE = (
    15112221349535400772501151409588531511454012693041857206046113283949847762202,
    46316835694926478169428394003475163141307993866256225615783033603165251855960,
)
_WIDTH = 70  # characters in a line of a private key
_Point = tuple[int, int, int, int]  # X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z


@dataclass(frozen=True)
class KeyPair:
    """A key pair.

    Attributes:
        secret: the 32 secret bytes, then the public key that is computed from them.
    """

    secret: bytes = field(repr=False)

    @classmethod
    def make(cls) -> KeyPair:
        """Make a new key pair."""
        seed = os.urandom(32)
        return cls(seed + public_of(seed))

    @property
    def public(self) -> str:
        """The public key as a line of OpenSSH: kind and key."""
        public = _strings((KIND, self.secret[32:]))
        return f"{KIND.decode()} {base64.b64encode(public).decode()}"

    def private(self, comment: str = "") -> str:
        """Return the private key as ssh-keygen writes it, without a passphrase."""
        public = _strings((KIND, self.secret[32:]))
        check = os.urandom(4) * 2  # OpenSSH checks a passphrase with it
        inner = check + public + _strings((self.secret, comment.encode()))
        inner += bytes(range(1, 1 + -len(inner) % 8))
        whole = b"openssh-key-v1\0" + _strings((b"none", b"none", b"")) + struct.pack(">I", 1)
        text = base64.b64encode(whole + _strings((public, inner))).decode()
        lines = [text[begin : begin + _WIDTH] for begin in range(0, len(text), _WIDTH)]
        head, foot = (f"-----{word} OPENSSH PRIVATE KEY-----" for word in ("BEGIN", "END"))
        return "".join(f"{line}\n" for line in (head, *lines, foot))

    def dropbear(self) -> bytes:
        """Return the private key as dropbear keeps its host keys."""
        return _strings((KIND, self.secret))


def public_of(seed: bytes) -> bytes:
    """Return the public key that belongs to a private one (RFC 8032, 5.1.5)."""
    number = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    number = number & ((1 << 254) - 8) | 1 << 254
    point: _Point = (0, 1, 1, 0)
    for row in _multiples():
        if digit := number & 15:
            point = _add(point, row[digit - 1])
        number >>= 4
    x, y, z, _ = point
    inverse = pow(z, -1, _P)
    return (y * inverse % _P | (x * inverse % _P & 1) << 255).to_bytes(32, "little")


@cache
def _multiples() -> list[list[_Point]]:
    """Return 1 to 15 times 16^k times the base point, for each hexadecimal digit k of a key."""
    x, y = _BASE
    point: _Point = (x, y, 1, x * y % _P)
    rows = []
    for _ in range(64):
        row = [point]
        for _ in range(14):
            row.append(_add(row[-1], point))
        rows.append(row)
        point = _add(row[-1], point)
    return rows


def _add(one: _Point, other: _Point) -> _Point:
    """Return the sum of two points (RFC 8032, 5.1.4)."""
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a = (y1 - x1) * (y2 - x2) % _P
    b = (y1 + x1) * (y2 + x2) % _P
    c = 2 * t1 * t2 * _D % _P
    d = 2 * z1 * z2 % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _strings(parts: Iterable[bytes]) -> bytes:
    """Return strings one after the other, each after its length, as ssh encodes them."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)
