"""A name server on loopback, over UDP and TCP: answers too long for UDP are truncated there."""

import socket
import struct
import threading

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset


class DnsServer:
    """Serves records; a name without any does not exist.

    Attributes
    ----------
    address : str
    asked : list of (protocol, kind)
        The queries, in order.
    rcode : str
        The answer to every query, unless NOERROR.
    rcodes : list of str
        The answers to the next queries, before `rcode` applies again.
    is_silent : bool
        Whether queries get no answer.
    """

    def __init__(self) -> None:
        self.rcode, self.is_silent = "NOERROR", False
        self.rcodes: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self._records: dict[dns.name.Name, dict[str, dns.rrset.RRset]] = {}
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(self._tcp.getsockname())
        self.address = "127.0.0.1:{1}".format(*self._tcp.getsockname())

    def put(self, name: str, kind: str, *texts: str, ttl: int = 0) -> None:
        """Replace a name's records of a kind; the name exists even without any."""
        records = self._records.setdefault(dns.name.from_text(name), {})
        records.pop(kind, None)
        if texts:
            records[kind] = dns.rrset.from_text(dns.name.from_text(name), ttl, "IN", kind, *texts)

    def drop(self, name: str) -> None:
        """Make a name nonexistent."""
        del self._records[dns.name.from_text(name)]

    def __enter__(self):
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        for listening in (self._udp, self._tcp):
            try:
                listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits
            except OSError:
                assert listening is self._udp  # which has no connection
            listening.close()

    def _serve_udp(self) -> None:
        while True:
            data, peer = self._udp.recvfrom(65_535)
            if not data:  # it was shut down
                return
            if answer := self._answer(data, "UDP"):
                self._udp.sendto(answer, peer)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                (size,) = struct.unpack("!H", stream.read(2))
                if answer := self._answer(stream.read(size), "TCP"):
                    stream.write(struct.pack("!H", len(answer)) + answer)

    def _answer(self, data: bytes, protocol: str) -> bytes | None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((protocol, kind))
        if self.is_silent:
            return None
        response = dns.message.make_response(query)
        records = self._records.get(question.name)
        exists = "NXDOMAIN" if records is None else "NOERROR"
        rcode = self.rcodes.pop(0) if self.rcodes else self.rcode
        response.set_rcode(dns.rcode.from_text(exists if rcode == "NOERROR" else rcode))
        if rcode == "NOERROR" and records and kind in records:
            response.answer.append(records[kind])
        answer = response.to_wire(max_size=65_535)
        if protocol == "UDP" and len(answer) > max(query.payload, 512):
            response.answer.clear()
            response.flags |= dns.flags.TC
            answer = response.to_wire()
        return answer
