from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class LogEvent(_message.Message):
    __slots__ = ("line", "done", "seq", "note", "from_seq")
    class Note(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NOTE_UNSPECIFIED: _ClassVar[LogEvent.Note]
        NOTE_GAP: _ClassVar[LogEvent.Note]
        NOTE_RESET: _ClassVar[LogEvent.Note]
    NOTE_UNSPECIFIED: LogEvent.Note
    NOTE_GAP: LogEvent.Note
    NOTE_RESET: LogEvent.Note
    LINE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    FROM_SEQ_FIELD_NUMBER: _ClassVar[int]
    line: str
    done: bool
    seq: int
    note: LogEvent.Note
    from_seq: int
    def __init__(self, line: _Optional[str] = ..., done: _Optional[bool] = ..., seq: _Optional[int] = ..., note: _Optional[_Union[LogEvent.Note, str]] = ..., from_seq: _Optional[int] = ...) -> None: ...
