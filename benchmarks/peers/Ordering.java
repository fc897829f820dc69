import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Properties;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.Schema;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The heart of ingest in Kafka Streams' Processor API: duplicates by event id, the producer's order with a
 * buffer for what comes early, seq, the idle deadline, a mark in an index every thousand events. It judges
 * less than ingest does: no names, epochs, kinds, sizes or watermarks, and no payload is looked into.
 */
public final class Ordering {
    private static final Schema EVENT = new Schema.Parser().parse(Readings.ENV.get("BENCH_SCHEMA"));
    private static final int EVENT_ID = EVENT.getField("event_id").pos();
    private static final int SEQ = EVENT.getField("seq").pos();
    private static final int TYPE = EVENT.getField("type").pos();
    private static final int TIME = EVENT.getField("time").pos();
    private static final int FRAME_BYTES = 5;
    private static final int MARK_EVERY = 1_000;
    private static final long IDLE_US = 30L * 60 * 1_000_000;
    private static final String STREAMS = "streams";
    private static final String SEEN = "seen";
    private static final String WAITING = "waiting";
    private static final String DEADLINES = "deadlines";

    public static void main(String[] args) {
        StreamsBuilder builder = new StreamsBuilder();
        for (String name : new String[] {STREAMS, SEEN, WAITING, DEADLINES}) {
            builder.addStateStore(Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(name),
                    Serdes.String(), Serdes.ByteArray()).withCachingEnabled());
        }
        var ordered = builder.stream(Readings.ENV.get("BENCH_INPUT"), Consumed.with(Serdes.String(), Serdes.ByteArray()))
                .process(Ingest::new, STREAMS, SEEN, WAITING, DEADLINES);
        ordered.filter((key, value) -> value.length > 0 && value[0] == 0)
                .to(Readings.ENV.get("BENCH_OUTPUT"), Produced.with(Serdes.String(), Serdes.ByteArray()));
        ordered.filter((key, value) -> value.length > 0 && value[0] != 0)
                .to(Readings.ENV.get("BENCH_INDEX"), Produced.with(Serdes.String(), Serdes.ByteArray()));
        Properties config = Readings.config();
        Readings.run(builder, config);
    }

    /** One stream: what comes next, its last event's time, and whether it is open or has ended. */
    record Stream(long next, long timeUs, byte status) {
        static final byte OPEN = 1;
        static final byte ENDED = 2;

        byte[] bytes() {
            return ByteBuffer.allocate(17).putLong(next).putLong(timeUs).put(status).array();
        }

        static Stream of(byte[] data) {
            if (data == null) {
                return new Stream(0, 0, (byte) 0);
            }
            ByteBuffer buffer = ByteBuffer.wrap(data);
            return new Stream(buffer.getLong(), buffer.getLong(), buffer.get());
        }
    }

    static final class Ingest implements Processor<String, byte[], String, byte[]> {
        private final GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(EVENT);
        private final GenericDatumWriter<GenericRecord> writer = new GenericDatumWriter<>(EVENT);
        private final ByteArrayOutputStream written = new ByteArrayOutputStream(1_024);
        private BinaryDecoder decoder;
        private BinaryEncoder encoder;
        private GenericRecord event;
        private ProcessorContext<String, byte[]> context;
        private KeyValueStore<String, byte[]> streams;
        private KeyValueStore<String, byte[]> seen;
        private KeyValueStore<String, byte[]> waiting;
        private KeyValueStore<String, byte[]> deadlines;

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            this.context = context;
            streams = context.getStateStore(STREAMS);
            seen = context.getStateStore(SEEN);
            waiting = context.getStateStore(WAITING);
            deadlines = context.getStateStore(DEADLINES);
            context.schedule(Duration.ofSeconds(1), PunctuationType.STREAM_TIME, this::timeOut);
        }

        @Override
        public void process(Record<String, byte[]> record) {
            String key = record.key();
            read(record.value());
            String id = key + "/" + event.get(EVENT_ID);
            if (seen.get(id) != null) {
                return;
            }
            Stream stream = Stream.of(streams.get(key));
            long seq = (Long) event.get(SEQ);
            if (stream.status() == Stream.ENDED || seq < stream.next()) {
                return;
            }
            seen.put(id, ByteBuffer.allocate(8).putLong(seq).array());
            if (seq > stream.next()) {
                waiting.put(held(key, seq), record.value());
                return;
            }
            stream = accept(record, stream);
            byte[] next;
            while ((next = waiting.delete(held(key, stream.next()))) != null) {
                read(next);
                stream = accept(record, stream);
            }
            streams.put(key, stream.bytes());
        }

        private Stream accept(Record<String, byte[]> record, Stream stream) {
            long timeUs = (Long) event.get(TIME);
            boolean ends = "end".contentEquals((CharSequence) event.get(TYPE));
            if (stream.next() == 0) {  // as ingest does: one deadline a stream, looked at again when it is due
                deadlines.put(due(timeUs + IDLE_US, record.key()), new byte[0]);
            }
            event.put(SEQ, stream.next());
            context.forward(record.withValue(write(record.value())));
            if (stream.next() % MARK_EVERY == 0 || ends) {
                byte[] mark = ByteBuffer.allocate(17).put((byte) 1).putLong(stream.next()).putLong(timeUs).array();
                context.forward(record.withValue(mark));
            }
            return new Stream(stream.next() + 1, timeUs, ends ? Stream.ENDED : Stream.OPEN);
        }

        private void timeOut(long nowMs) {
            try (KeyValueIterator<String, byte[]> all = deadlines.range(due(0, ""), due(nowMs * 1_000, ""))) {
                while (all.hasNext()) {
                    KeyValue<String, byte[]> one = all.next();
                    String key = one.key.substring(20);
                    Stream stream = Stream.of(streams.get(key));
                    deadlines.delete(one.key);
                    if (stream.status() == Stream.OPEN) {
                        deadlines.put(due(stream.timeUs() + IDLE_US, key), new byte[0]);
                    }
                }
            }
        }

        private static String held(String key, long seq) {
            return key + "/" + seq;
        }

        private static String due(long us, String key) {
            return String.format("%019d/%s", us, key);
        }

        private void read(byte[] data) {
            Readings.tellFirst();
            try {
                int length = data.length - FRAME_BYTES;
                decoder = DecoderFactory.get().binaryDecoder(data, FRAME_BYTES, length, decoder);
                event = reader.read(event, decoder);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        private byte[] write(byte[] framed) {
            written.reset();
            written.write(framed, 0, FRAME_BYTES);
            try {
                encoder = EncoderFactory.get().directBinaryEncoder(written, encoder);
                writer.write(event, encoder);
                encoder.flush();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            return written.toByteArray();
        }
    }
}
