"""Writes PNG files whose bytes depend on the pixels alone.

Pillow compresses with whatever zlib it was built with, and zlib, zlib-ng and their versions give different bytes. Flat drawings need no
clever compression: after the "up" filter most bytes repeat their left neighbour, so runs in one fixed-Huffman block (RFC 1951, 3.2.6) come
close to zlib's size.
"""

from __future__ import annotations

import re
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

_RUN = re.compile(rb"(.)\1{3,}|.", re.DOTALL)


@cache
def _literal(value: int) -> str:
    return f"{0x30 + value:08b}" if value < 144 else f"{0x190 + value - 144:09b}"


@cache
def _repeat(length: int) -> str:
    """Code of "repeat the last byte `length` times", 3 <= length <= 258: length code, its extra bits, distance 1 (RFC 1951, 3.2.5)."""
    if length == 258:
        symbol, extra_bits, extra = 285, 0, 0
    else:
        extra_bits = max(0, (length - 3).bit_length() - 3)
        symbol = 257 + 4 * extra_bits + ((length - 3) >> extra_bits)
        extra = (length - 3) & ((1 << extra_bits) - 1)
    code = f"{symbol - 256:07b}" if symbol < 280 else f"{0xC0 + symbol - 280:08b}"
    low_bit_first = f"{extra:0{extra_bits}b}"[::-1] if extra_bits else ""
    return code + low_bit_first + "00000"


@cache
def _run(value: int, count: int) -> str:
    codes = [_literal(value)]
    count -= 1
    while count >= 3:
        # never leave a rest of one or two, which could not be written as a repeat
        step = min(count, 258) if count - 258 not in (1, 2) else 255
        codes.append(_repeat(step))
        count -= step
    return "".join(codes) + _literal(value) * count


def _deflate(data: bytes) -> bytes:
    bits = ["110"]  # final block, fixed Huffman codes (low bit first)
    for match in _RUN.finditer(data):
        run = match.group()
        bits.append(_run(run[0], len(run)) if len(run) > 3 else _literal(run[0]))
    bits.append("0000000")
    stream = "".join(bits)
    return (
        b"\x78\x01"
        + int(stream[::-1], 2).to_bytes(-(-len(stream) // 8), "little")
        + struct.pack(">I", zlib.adler32(data))
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def encode_png(image: Image.Image) -> bytes:
    """The bytes of an 8-bit RGB PNG file of `image`."""
    pixels = np.asarray(image.convert("RGB")).reshape(image.height, -1)
    rows = np.full((image.height, 1 + pixels.shape[1]), 2, np.uint8)  # 2: every byte minus the byte above (PNG, 9.2)
    rows[:, 1:] = np.diff(pixels, axis=0, prepend=np.zeros_like(pixels[:1]))
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", _deflate(rows.tobytes()))
        + _chunk(b"IEND", b"")
    )
