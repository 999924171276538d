"""A name server of one name, for gRPC's `dns://SERVER/NAME:PORT`."""

import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

A, IN = 1, 1


class NameServer:
    """Answers every query for A records with `addresses`, which a test may change."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = addresses
        self.questions = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._socket.sendto(b"", self._socket.getsockname())  # ends the thread
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, peer = self._socket.recvfrom(512)
            if not query:
                return
            self.questions += 1
            end = query.index(b"\0", 12) + 5
            (kind,) = struct.unpack_from("!H", query, end - 4)
            found = self.addresses if kind == A else ()
            head = struct.pack("!2sHHHHH", query[:2], 0x8580, 1, len(found), 0, 0)
            answers = b"".join(
                struct.pack("!HHHIH4s", 0xC00C, A, IN, 0, 4, ipaddress.ip_address(each).packed)
                for each in found
            )
            self._socket.sendto(head + query[12:end] + answers, peer)


@contextmanager
def name_server(*addresses: str) -> Iterator[NameServer]:
    server = NameServer(addresses)
    try:
        yield server
    finally:
        server.close()
