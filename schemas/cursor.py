"""The position that a client resumes from: opaque text, bound to one stream."""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from hashlib import blake2b
from typing import Final, NamedTuple

from schemas.errors import ForeignCursor, MalformedCursor

TEXT_MAX: Final = 128  # longer, or other characters, costs a browser a CORS preflight at each reconnect
_FORMAT: Final = 1
_FORMAT_END: Final = 2  # of an ``end``: who has it is known by it when nothing else is known of the stream
_BODY = struct.Struct(">BHIqq")  # format, topic version, partition, offset, seq
_TAG_BYTES: Final = 7  # with the body 30 bytes: base64 without padding, whose "=" a cursor may not hold


class Cursor(NamedTuple):  # one an event: a frozen dataclass takes three times as long to make
    """What a client has seen: the record at ``offset``, which is event ``seq`` of its stream.

    Offsets are not consecutive within a stream; gaps are found by ``seq``, never by offset.
    """

    topic_version: int
    partition: int
    offset: int
    seq: int
    ended: bool = False
    """The event is the stream's ``end``: nothing follows it."""

    def encode(self, tenant: str, stream_id: str) -> str:
        """Return the cursor as 40 characters of ``[A-Za-z0-9_-]``, bound to this tenant and stream."""
        form = _FORMAT_END if self.ended else _FORMAT
        body = _BODY.pack(form, self.topic_version, self.partition, self.offset, self.seq)
        return urlsafe_b64encode(body + _tag(body, tenant, stream_id)).decode("ascii")


def decode_cursor(text: str, tenant: str, stream_id: str) -> Cursor:
    """Read a cursor that a client sent.

    Raises:
        MalformedCursor: the text is none of ours.
        ForeignCursor: it was given for another tenant or stream (or altered: the two look the same).
    """
    if len(text) > TEXT_MAX:
        raise MalformedCursor(f"{len(text)} characters, at most {TEXT_MAX}")
    try:
        data = urlsafe_b64decode(text.encode("ascii"))
    except (UnicodeEncodeError, Base64Error):
        raise MalformedCursor("not base64url") from None
    # Python's decoder skips foreign characters and spare bits: only the one true spelling may pass.
    if len(data) != _BODY.size + _TAG_BYTES or urlsafe_b64encode(data).decode("ascii") != text:
        raise MalformedCursor(f"not {_BODY.size + _TAG_BYTES} bytes of base64url")
    body, tag = data[: _BODY.size], data[_BODY.size :]
    form, topic_version, partition, offset, seq = _BODY.unpack(body)
    if form not in (_FORMAT, _FORMAT_END):
        raise MalformedCursor(f"format {form} is not known, only {_FORMAT} and {_FORMAT_END}")
    if tag != _tag(body, tenant, stream_id):
        raise ForeignCursor
    if offset < 0 or seq < -1:
        raise MalformedCursor("offset or seq is negative")
    return Cursor(topic_version, partition, offset, seq, ended=form == _FORMAT_END)


def _tag(body: bytes, tenant: str, stream_id: str) -> bytes:
    # Not a secret and none is needed: a forged cursor only moves a reader within a stream that it may read,
    # for the edge still filters by tenant and stream. The tag catches honest mix-ups.
    return blake2b(
        body + f"{tenant}/{stream_id}".encode(), digest_size=_TAG_BYTES, person=b"sg.cursor"
    ).digest()
