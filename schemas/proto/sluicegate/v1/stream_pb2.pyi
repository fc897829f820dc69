import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("tenant", "stream_id", "cursor")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    stream_id: str
    cursor: str
    def __init__(self, tenant: _Optional[str] = ..., stream_id: _Optional[str] = ..., cursor: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("events", "reconnect", "refused", "expiring")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    EXPIRING_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    reconnect: Reconnect
    refused: Refused
    expiring: Expiring
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., reconnect: _Optional[_Union[Reconnect, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., expiring: _Optional[_Union[Expiring, _Mapping]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("cursor", "seq", "type", "time", "event_id", "json", "gap", "end")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    seq: int
    type: str
    time: _timestamp_pb2.Timestamp
    event_id: str
    json: str
    gap: Gap
    end: End
    def __init__(self, cursor: _Optional[str] = ..., seq: _Optional[int] = ..., type: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., event_id: _Optional[str] = ..., json: _Optional[str] = ..., gap: _Optional[_Union[Gap, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ...) -> None: ...

class Gap(_message.Message):
    __slots__ = ("from_seq", "to_seq", "count", "reason", "of_type")
    FROM_SEQ_FIELD_NUMBER: _ClassVar[int]
    TO_SEQ_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OF_TYPE_FIELD_NUMBER: _ClassVar[int]
    from_seq: int
    to_seq: int
    count: int
    reason: str
    of_type: str
    def __init__(self, from_seq: _Optional[int] = ..., to_seq: _Optional[int] = ..., count: _Optional[int] = ..., reason: _Optional[str] = ..., of_type: _Optional[str] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("reason", "message", "exit_code", "events", "bytes", "from_index")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    FROM_INDEX_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    exit_code: int
    events: int
    bytes: int
    from_index: bool
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., exit_code: _Optional[int] = ..., events: _Optional[int] = ..., bytes: _Optional[int] = ..., from_index: _Optional[bool] = ...) -> None: ...

class Reconnect(_message.Message):
    __slots__ = ("reason", "retry_ms")
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_MS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    retry_ms: int
    def __init__(self, reason: _Optional[str] = ..., retry_ms: _Optional[int] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("code", "detail", "remedy")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    code: str
    detail: str
    remedy: str
    def __init__(self, code: _Optional[str] = ..., detail: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class Expiring(_message.Message):
    __slots__ = ("expires_in_ms",)
    EXPIRES_IN_MS_FIELD_NUMBER: _ClassVar[int]
    expires_in_ms: int
    def __init__(self, expires_in_ms: _Optional[int] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("tenant", "stream_id", "kind", "events", "wait_committed")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    WAIT_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    stream_id: str
    kind: str
    events: _containers.RepeatedCompositeFieldContainer[NewEvent]
    wait_committed: bool
    def __init__(self, tenant: _Optional[str] = ..., stream_id: _Optional[str] = ..., kind: _Optional[str] = ..., events: _Optional[_Iterable[_Union[NewEvent, _Mapping]]] = ..., wait_committed: _Optional[bool] = ...) -> None: ...

class NewEvent(_message.Message):
    __slots__ = ("type", "json", "fields", "event_id", "seq", "time", "kind", "source", "request_id", "task_id", "upstream_id", "traceparent", "epoch", "attempt")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    type: str
    json: str
    fields: _struct_pb2.Struct
    event_id: str
    seq: int
    time: _timestamp_pb2.Timestamp
    kind: str
    source: str
    request_id: str
    task_id: str
    upstream_id: str
    traceparent: str
    epoch: int
    attempt: int
    def __init__(self, type: _Optional[str] = ..., json: _Optional[str] = ..., fields: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., event_id: _Optional[str] = ..., seq: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[str] = ..., source: _Optional[str] = ..., request_id: _Optional[str] = ..., task_id: _Optional[str] = ..., upstream_id: _Optional[str] = ..., traceparent: _Optional[str] = ..., epoch: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("tenant", "stream_id", "events")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    stream_id: str
    events: _containers.RepeatedCompositeFieldContainer[Appended]
    def __init__(self, tenant: _Optional[str] = ..., stream_id: _Optional[str] = ..., events: _Optional[_Iterable[_Union[Appended, _Mapping]]] = ...) -> None: ...

class Appended(_message.Message):
    __slots__ = ("event_id", "partition", "offset", "verdict")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    partition: int
    offset: int
    verdict: Verdict
    def __init__(self, event_id: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("verdict", "seq", "cursor", "detail")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    verdict: str
    seq: int
    cursor: str
    detail: str
    def __init__(self, verdict: _Optional[str] = ..., seq: _Optional[int] = ..., cursor: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("tenant", "stream_id", "reason", "by")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    stream_id: str
    reason: str
    by: str
    def __init__(self, tenant: _Optional[str] = ..., stream_id: _Optional[str] = ..., reason: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class CancelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Problem(_message.Message):
    __slots__ = ("code", "title", "detail", "remedy", "field", "index", "retry_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RETRY_MS_FIELD_NUMBER: _ClassVar[int]
    code: str
    title: str
    detail: str
    remedy: str
    field: str
    index: int
    retry_ms: int
    def __init__(self, code: _Optional[str] = ..., title: _Optional[str] = ..., detail: _Optional[str] = ..., remedy: _Optional[str] = ..., field: _Optional[str] = ..., index: _Optional[int] = ..., retry_ms: _Optional[int] = ...) -> None: ...
