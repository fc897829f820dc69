"""Records as no client in Python writes them: headers whose names are any bytes, by librdkafka itself."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

import confluent_kafka

if TYPE_CHECKING:
    from collections.abc import Sequence

_END, _TOPIC, _PARTITION, _VALUE, _KEY, _FLAGS, _HEADERS = 0, 1, 3, 4, 5, 7, 10  # rd_kafka_vtype_t
_COPY = 2  # RD_KAFKA_MSG_F_COPY
_PRODUCER = 0


def library() -> ctypes.CDLL | None:
    """Return the librdkafka that confluent-kafka's wheel carries; None where it carries none."""
    found = Path(confluent_kafka.__file__).parent.parent.glob("confluent_kafka.libs/librdkafka*.so*")
    path = next(found, None)
    if path is None:
        return None
    lib = ctypes.CDLL(str(path))
    for name in ("conf_new", "new", "headers_new", "handle_mock_cluster"):
        getattr(lib, f"rd_kafka_{name}").restype = ctypes.c_void_p
    lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return lib


class ForeignProducer:
    """Produces to a cluster of librdkafka's own, in this process; to be closed."""

    def __init__(self, lib: ctypes.CDLL) -> None:
        self._lib = lib
        said = ctypes.create_string_buffer(512)
        config = ctypes.c_void_p(lib.rd_kafka_conf_new())
        for name, value in ((b"test.mock.num.brokers", b"1"), (b"log_level", b"0")):
            assert lib.rd_kafka_conf_set(config, name, value, said, len(said)) == 0, said.value
        self._client = ctypes.c_void_p(lib.rd_kafka_new(_PRODUCER, config, said, len(said)))
        assert self._client, said.value
        cluster = ctypes.c_void_p(lib.rd_kafka_handle_mock_cluster(self._client))
        self.bootstrap: str = lib.rd_kafka_mock_cluster_bootstraps(cluster).decode()

    def produce(self, topic: str, value: bytes, headers: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Append a record to partition 0, and wait until it stands there."""
        lib, size = self._lib, ctypes.c_size_t
        made = ctypes.c_void_p(lib.rd_kafka_headers_new(size(len(headers))))
        for name, data in headers:
            length = ctypes.c_ssize_t(-1 if data is None else len(data))
            assert lib.rd_kafka_header_add(made, name, ctypes.c_ssize_t(len(name)), data, length) == 0
        failed = lib.rd_kafka_producev(
            self._client,
            ctypes.c_int(_TOPIC), topic.encode(),
            ctypes.c_int(_PARTITION), ctypes.c_int32(0),
            ctypes.c_int(_VALUE), value, size(len(value)),
            ctypes.c_int(_KEY), b"k", size(1),
            ctypes.c_int(_FLAGS), ctypes.c_int(_COPY),
            ctypes.c_int(_HEADERS), made,
            ctypes.c_int(_END),
        )  # fmt: skip
        assert failed == 0
        assert lib.rd_kafka_flush(self._client, 10_000) == 0

    def close(self) -> None:
        """End the client, and its cluster."""
        self._lib.rd_kafka_destroy(self._client)
