-- oldest: 1
-- How streams were delivered: each delivery to a client, and what that comes to for each stream. Code before
-- it does not know them.

CREATE TABLE connections (
    tenant      text COLLATE "C" NOT NULL,
    stream_id   text COLLATE "C" NOT NULL,
    edge        text COLLATE "C" NOT NULL,
    connection  bigint NOT NULL,
    kind        text NOT NULL,
    action      text NOT NULL,
    transport   text NOT NULL,
    peer        text NOT NULL,
    subject     text NOT NULL,
    opened_us   bigint NOT NULL,
    time_us     bigint NOT NULL,
    reason      text NOT NULL,
    resumed     boolean NOT NULL,
    seq         bigint NOT NULL,
    events      bigint NOT NULL,
    bytes       bigint NOT NULL,
    gaps        bigint NOT NULL,
    dropped     bigint NOT NULL,
    duration_ms bigint NOT NULL,
    revision    bigint NOT NULL,
    opened timestamptz GENERATED ALWAYS AS (moment(nullif(opened_us, 0))) STORED,
    closed timestamptz GENERATED ALWAYS AS (CASE WHEN action = 'closed' THEN moment(time_us) END) STORED,
    archived timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, stream_id, edge, connection)
) WITH (fillfactor = 80);  -- a row is revised at each gap and at the close

CREATE INDEX connections_by_time ON connections (time_us);  -- by which they are forgotten

COMMENT ON TABLE connections IS 'Deliveries of streams to clients, as edges told of them: newest revision of each. An edge that was killed, or did not reach Kafka, leaves some out, or open for ever.';
COMMENT ON COLUMN connections.tenant IS 'Whose stream it is.';
COMMENT ON COLUMN connections.stream_id IS 'The stream.';
COMMENT ON COLUMN connections.edge IS 'Which edge: its host, and a name of one run of one process.';
COMMENT ON COLUMN connections.connection IS 'Number of the delivery at that edge: a WebSocket has one for each stream.';
COMMENT ON COLUMN connections.kind IS 'Kind of the stream; empty if the edge did not know it then.';
COMMENT ON COLUMN connections.action IS 'What was told last: opened, resumed, gap, closed.';
COMMENT ON COLUMN connections.transport IS 'sse, websocket, grpc or answer.';
COMMENT ON COLUMN connections.peer IS 'The client''s address: its connection''s, or what a trusted proxy says.';
COMMENT ON COLUMN connections.subject IS 'Whose token the client brought (sub); empty = none, or a token that names nobody.';
COMMENT ON COLUMN connections.opened_us IS 'When the client came, microseconds since 1970 by the edge''s clock.';
COMMENT ON COLUMN connections.time_us IS 'When it was told of last: at the close, if it is closed.';
COMMENT ON COLUMN connections.reason IS 'Why it was closed, or the last gap was declared; empty = neither.';
COMMENT ON COLUMN connections.resumed IS 'The client came with a cursor.';
COMMENT ON COLUMN connections.seq IS 'Last seq that was written to the socket, or that the client had when it came; -1 = none.';
COMMENT ON COLUMN connections.events IS 'Events of the stream that were written.';
COMMENT ON COLUMN connections.bytes IS 'Bytes of them, as they went over the wire.';
COMMENT ON COLUMN connections.gaps IS 'Gaps that the client was told of.';
COMMENT ON COLUMN connections.dropped IS 'Events that it missed for being slow.';
COMMENT ON COLUMN connections.duration_ms IS 'How long it had been open when it was told of last.';
COMMENT ON COLUMN connections.revision IS 'Which of the delivery''s events this is; a lower one never overwrites a higher one.';
COMMENT ON COLUMN connections.opened IS 'opened_us for people; derived.';
COMMENT ON COLUMN connections.closed IS 'When it was closed, for people; NULL = it is open, or its edge could not tell; derived.';
COMMENT ON COLUMN connections.archived IS 'When the archive last wrote this row, by the clock of PostgreSQL.';

-- A name may be opened again when its history is over, which takes longer than clocks differ: a delivery that
-- was over an hour before the stream opened was of an earlier one.
CREATE VIEW stream_deliveries AS
SELECT streams.*, delivery.*
FROM streams CROSS JOIN LATERAL (
    SELECT count(*) AS connections,
        count(*) FILTER (WHERE told.closed IS NULL) AS connections_open,
        count(*) FILTER (WHERE told.resumed) AS resumes,
        coalesce(sum(told.gaps), 0) AS gaps,
        coalesce(sum(told.dropped), 0) AS dropped,
        coalesce(max(told.seq), -1) AS last_seq_written
    FROM connections AS told
    WHERE told.tenant = streams.tenant AND told.stream_id = streams.stream_id
        AND told.time_us >= streams.opened_us - 3600000000
) AS delivery;

COMMENT ON VIEW stream_deliveries IS 'Each stream''s record with what became of its delivery to clients, as far as edges told of it and it is not forgotten.';
COMMENT ON COLUMN stream_deliveries.connections IS 'Deliveries: a client that came back is another one.';
COMMENT ON COLUMN stream_deliveries.connections_open IS 'Those of them that nobody said are closed.';
COMMENT ON COLUMN stream_deliveries.resumes IS 'Those of them that began with a cursor.';
COMMENT ON COLUMN stream_deliveries.gaps IS 'Gaps that clients were told of.';
COMMENT ON COLUMN stream_deliveries.dropped IS 'Events that clients missed for being slow.';
COMMENT ON COLUMN stream_deliveries.last_seq_written IS 'Last seq that was written to any client''s socket, which is not yet seen; -1 = none.';
