"""Real sockets that stop reading, at a real edge on Kafka: who is named, who is dropped, and who is slowed."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2
import psutil
import pytest

from schemas.topics import CONNECTIONS
from schemas.wire import WireCodec
from tests.support.read_topic import read_committed
from tests.support.sse_client import SseClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry
    from tests.support.edge_process import EdgeProcess
    from tests.support.ingest_twin import IngestTwin
