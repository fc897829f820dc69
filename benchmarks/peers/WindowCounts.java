import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.WindowStore;

/** The windows of benchmarks/windows.py in Kafka Streams' own DSL, with its own RocksDB and changelog. */
public final class WindowCounts {
    private static final Map<String, String> ENV = System.getenv();

    record Reading(long timeMs, long amount, double cost) {}

    record Figures(long count, long amount, double cost) {
        static final Figures NONE = new Figures(0, 0, 0.0);

        Figures plus(Reading reading) {
            return new Figures(count + 1, amount + reading.amount, cost + reading.cost);
        }
    }

    public static void main(String[] args) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(ENV.get("BENCH_INPUT"), Consumed.with(Serdes.String(), readings())
                        .withTimestampExtractor((record, before) -> ((Reading) record.value()).timeMs()))
                .groupByKey(Grouped.with(Serdes.String(), readings()))
                .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofSeconds(10), Duration.ofSeconds(60)))
                .aggregate(() -> Figures.NONE, (key, reading, figures) -> figures.plus(reading),
                        Materialized.<String, Figures, WindowStore<Bytes, byte[]>>as("windows")
                                .withKeySerde(Serdes.String()).withValueSerde(figures()))
                .toStream()
                .map((window, figures) ->
                        new KeyValue<>(outputKey(window.window().start(), window.key()), figures))
                .to(ENV.get("BENCH_OUTPUT"), Produced.with(Serdes.ByteArray(), figures()));
        KafkaStreams streams = new KafkaStreams(builder.build(), config());
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(10))));
        streams.start();
    }

    private static Properties config() {
        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, ENV.get("BENCH_GROUP"));
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, ENV.get("BENCH_KAFKA"));
        config.put(StreamsConfig.STATE_DIR_CONFIG, ENV.get("BENCH_STATE"));
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1_000);
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, Long.parseLong(ENV.get("BENCH_CACHE_BYTES")));
        return config;
    }

    /** The window's start in microseconds, big-endian, then the key: as benchmarks/windows.py writes it. */
    private static byte[] outputKey(long startMs, String key) {
        byte[] text = key.getBytes(StandardCharsets.UTF_8);
        return ByteBuffer.allocate(8 + text.length).putLong(startMs * 1_000).put(text).array();
    }

    private static Serde<Figures> figures() {
        return Serdes.serdeFrom(
                (topic, it) -> it == null ? null : ByteBuffer.allocate(24)
                        .putLong(it.count()).putLong(it.amount()).putDouble(it.cost()).array(),
                (topic, data) -> {
                    if (data == null) {
                        return null;
                    }
                    ByteBuffer buffer = ByteBuffer.wrap(data);
                    return new Figures(buffer.getLong(), buffer.getLong(), buffer.getDouble());
                });
    }

    private static Serde<Reading> readings() {
        return Serdes.serdeFrom((topic, it) -> {
            throw new UnsupportedOperationException("readings are only read");
        }, new ReadingDeserializer());
    }

    /** Confluent's frame and Apache Avro, record and decoder reused: one a thread, as Kafka Streams asks for. */
    private static final class ReadingDeserializer implements Deserializer<Reading> {
        private static final AtomicBoolean FIRST = new AtomicBoolean(true);
        private static final Schema SCHEMA = new Schema.Parser().parse(ENV.get("BENCH_SCHEMA"));
        private static final int TIME = SCHEMA.getField("time").pos();
        private static final int AMOUNT = SCHEMA.getField("amount").pos();
        private static final int COST = SCHEMA.getField("cost").pos();

        private static final class Decoder {
            final GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(SCHEMA);
            BinaryDecoder bytes;
            GenericRecord record;
        }

        private final ThreadLocal<Decoder> decoders = ThreadLocal.withInitial(Decoder::new);

        @Override
        public Reading deserialize(String topic, byte[] data) {
            if (FIRST.get() && FIRST.compareAndSet(true, false)) {
                System.out.println("first record at " + System.currentTimeMillis());
            }
            Decoder decoder = decoders.get();
            try {
                decoder.bytes = DecoderFactory.get().binaryDecoder(data, 5, data.length - 5, decoder.bytes);
                decoder.record = decoder.reader.read(decoder.record, decoder.bytes);
            } catch (IOException error) {
                throw new SerializationException(error);
            }
            GenericRecord record = decoder.record;
            return new Reading((Long) record.get(TIME) / 1_000, (Long) record.get(AMOUNT), (Double) record.get(COST));
        }
    }
}
