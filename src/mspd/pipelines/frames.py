"""Raw video frames (rgb24) from a stream to a stream, for ffmpeg; one frame is in memory at a time."""

from typing import BinaryIO

import numpy as np

from mspd.errors import ImageError, InputError
from mspd.images.refusals import reason
from mspd.protector import Protector


def protect_frames(protector: Protector, source: BinaryIO, sink: BinaryIO, size: tuple[int, int], *, seed: int) -> int:
    """Protect each frame of (width, height) pixels, three bytes each; the number of frames.

    Each frame depends on its own pixels and the seed alone. InputError when the stream ends inside a frame (those
    before it are written), ImageError when nobody takes the frames any more, or no disk.
    """
    width, height = size
    length, count = width * height * 3, 0
    while data := _read(source, length):
        if len(data) < length:
            raise InputError(
                f"the stream ends inside frame {count + 1}, after {len(data)} of its {length} bytes: is the size "
                f"{width}x{height} and the pixel format rgb24? {count} frames are written"
            )
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)
        protected, _, _ = protector.protect_pixels(pixels, seed=seed)
        count += 1
        try:
            _write(sink, protected.tobytes())
        except OSError as error:
            why = "the reader has gone" if isinstance(error, BrokenPipeError) else reason(error)
            raise ImageError(f"frame {count} cannot be written: {why}") from error
    return count


def _read(source: BinaryIO, length: int) -> bytes:
    """As many bytes as there are, up to `length`; a pipe gives them in pieces."""
    pieces, left = [], length
    while left and (piece := source.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _write(sink: BinaryIO, data: bytes) -> None:
    """All of the bytes; an unbuffered pipe takes them in pieces."""
    rest = memoryview(data)
    while rest:
        rest = rest[sink.write(rest) :]
