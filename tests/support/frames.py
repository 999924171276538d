"""HTTP/2 as bytes, just enough to make a gRPC call and to corrupt one (RFC 9113, RFC 7541)."""

import random
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
GOAWAY, WINDOW_UPDATE, CONTINUATION = 7, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def literal(*header: str) -> bytes:
    """A literal header: not indexed, name and value unencoded."""
    texts = [text.encode(errors="surrogateescape") for text in header]
    return b"\x00" + b"".join(bytes([len(text)]) + text for text in texts)


def call(path: str, message: bytes, stream: int = 1) -> list[bytes]:
    """The frames of one call."""
    headers = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    block = b"".join(literal(*header) for header in headers.items())
    body = b"\0" + struct.pack("!I", len(message)) + message
    return [
        frame(HEADERS, END_HEADERS, stream, block),
        frame(DATA, END_STREAM, stream, body),
    ]


def odd_frame(chance: random.Random) -> bytes:
    """A frame that is out of place, or invalid anywhere."""
    stream = chance.choice((0, 1, 2, 3, 2**31 - 1))
    match chance.randrange(9):
        case 0:
            return frame(PING, chance.choice((0, 1)), chance.choice((0, 1)), bytes(8)) * 100
        case 1:
            return frame(SETTINGS, 0, 0, struct.pack("!HI", chance.randrange(9), 2**32 - 1))
        case 2:
            return frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", chance.choice((0, 2**31 - 1))))
        case 3:
            return frame(RST_STREAM, 0, stream, bytes(4))
        case 4:
            return frame(CONTINUATION, 0, stream, literal("x", "y")) * 50
        case 5:
            return frame(HEADERS, 0, stream, chance.randbytes(60))
        case 6:
            return frame(GOAWAY, 0, 0, bytes(8))
        case 7:
            return frame(DATA, 0, stream, struct.pack("!BI", chance.randrange(3), 2**32 - 1))
        case _:
            return frame(chance.randrange(256), chance.randrange(256), stream, chance.randbytes(30))


def spoilt(frames: list[bytes], chance: random.Random) -> bytes:
    """The bytes of a connection with something wrong in it."""
    frames = list(frames)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(frames))
        match chance.randrange(6):
            case 0:
                frames[at] = frames[at][: chance.randrange(len(frames[at]) + 1)]
            case 1:
                frames.insert(at, frames[at])
            case 2:
                frames.insert(at, odd_frame(chance))
            case 3:
                chance.shuffle(frames)
            case _ if frames[at]:
                bits = bytearray(frames[at])
                bits[chance.randrange(len(bits))] ^= 1 << chance.randrange(8)
                frames[at] = bytes(bits)
            case _:
                pass
    return b"".join(frames)
