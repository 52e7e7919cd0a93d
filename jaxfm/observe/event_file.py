"""TensorBoard event files with scalars, written without a TensorBoard library.

The libraries cost more than the format: tensorboardX imports torch wherever it is installed (2 s of every start) and
writes in a thread that blocks for ever once the disk is full; tensorboard brings a web server and gRPC.

The format: a file is a sequence of TFRecords, each an `Event` message of protocol buffers (tensorflow/core/util/
event.proto). A record is the length (8 bytes), its checksum (4), the message, its checksum (4), little-endian; the
checksum is a masked CRC-32C (tensorflow/core/lib/io/record_writer.h).
"""

import math
import os
import pathlib
import struct
import time
from collections.abc import Mapping

EVENT_PREFIX = "events.out.tfevents"
_VERSION = "brain.Event:2"
# Numbers of fields, and kinds of encoding, of protocol buffers.
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 1, 2, 3, 5, 7  # of Event
_VALUE, _TAG, _SIMPLE_VALUE, _STATUS, _START = 1, 1, 2, 1, 1  # of Summary, Summary.Value and SessionLog
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class EventFile:
    """A new event file in a folder, written in the calling thread. Raises OSError when the disk is full."""

    def __init__(self, folder: pathlib.Path, *, first_step: int) -> None:
        """Creates the file; TensorBoard hides what earlier files of `folder` hold from `first_step` on."""
        # Numbered: a quick restart within the same second must not overwrite the file before it.
        earlier = len(list(folder.glob(f"{EVENT_PREFIX}.*")))
        path = folder / f"{EVENT_PREFIX}.{int(time.time()):010d}.{os.getpid()}.{earlier:03d}"
        self._file = path.open("xb")
        self._add(_field(_FILE_VERSION, _BYTES, _VERSION.encode()))
        if earlier:
            status = _field(_STATUS, _VARINT, _varint(_START))
            self._add(_field(_STEP, _VARINT, _varint(first_step)) + _field(_SESSION_LOG, _BYTES, status))
        self._file.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the scalars of one step: tag -> value, stored as f32."""
        summary = b"".join(_field(_VALUE, _BYTES, _scalar(tag, value)) for tag, value in values.items())
        self._add(_field(_STEP, _VARINT, _varint(step)) + _field(_SUMMARY, _BYTES, summary))

    def flush(self) -> None:
        """Hands everything written so far to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()

    def _add(self, fields: bytes) -> None:
        event = _field(_WALL_TIME, _FIXED64, struct.pack("<d", time.time())) + fields
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))


def _scalar(tag: str, value: float) -> bytes:
    try:
        packed = struct.pack("<f", value)
    except OverflowError:  # beyond the range of f32
        packed = struct.pack("<f", math.copysign(math.inf, value))
    return _field(_TAG, _BYTES, tag.encode()) + _field(_SIMPLE_VALUE, _FIXED32, packed)


def _field(number: int, kind: int, content: bytes) -> bytes:
    length = _varint(len(content)) if kind == _BYTES else b""
    return _varint(number << 3 | kind) + length + content


def _varint(value: int) -> bytes:
    """Returns 7 bits a byte, the lowest first; the top bit says that more follow."""
    assert value >= 0, value
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _crc_table() -> tuple[int, ...]:
    """Returns the remainders of all bytes by CRC-32C's polynomial (Castagnoli), bits reversed."""
    table = []
    for remainder in range(256):
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
        table.append(remainder)
    return tuple(table)


_CRC_TABLE = _crc_table()


def _checksum(data: bytes) -> bytes:
    """Returns the CRC-32C, rotated and shifted by a constant as TFRecords want it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
