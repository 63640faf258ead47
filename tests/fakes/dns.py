"""A DNS server on loopback that knows the names a test tells it, as a cluster's does those of headless Services."""

import socket
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

_ANSWER, _NO_SUCH_NAME = b"\x81\x80", b"\x81\x83"
_ADDRESS = b"\x00\x01\x00\x01"  # type A, class IN


class Names:
    """Answers over UDP while it is a context. known: IPv4 addresses by first label; others may change it meanwhile."""

    def __init__(self, known: Mapping[str, Sequence[str]]) -> None:
        self.known = dict(known)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.sendto(b"", self._socket.getsockname())  # wakes it to its end
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(512)
            if not query:
                return
            self._socket.sendto(self._answer(query), sender)

    def _answer(self, query: bytes) -> bytes:
        """Source: RFC 1035, section 4.1."""
        end = query.index(b"\0", 12) + 1  # of the name
        kind = query[end : end + 4]
        addresses = self.known.get(query[13 : 13 + query[12]].decode())
        found = addresses if addresses is not None and kind == _ADDRESS else []
        records = [b"\xc0\x0c" + kind + bytes(4) + b"\0\4" + socket.inet_aton(each) for each in found]
        flags = _NO_SUCH_NAME if addresses is None else _ANSWER
        counts = b"\0\1" + len(records).to_bytes(2, "big") + bytes(4)
        return query[:2] + flags + counts + query[12 : end + 4] + b"".join(records)
