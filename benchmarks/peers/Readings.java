import java.io.IOException;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Function;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;

/** What the programs in Kafka Streams share: how readings are read, their settings, their start and end. */
final class Readings {
    static final Map<String, String> ENV = System.getenv();
    private static final Schema SCHEMA = new Schema.Parser().parse(ENV.get("BENCH_SCHEMA"));

    private static final AtomicBoolean FIRST = new AtomicBoolean(true);

    private Readings() {}

    /** Tells when the first record is read, from where the benchmark's clock runs. */
    static void tellFirst() {
        if (FIRST.get() && FIRST.compareAndSet(true, false)) {
            System.out.println("first record at " + System.currentTimeMillis());
        }
    }

    /** The position of a field in a record of {@link #serde}. */
    static int field(String name) {
        return SCHEMA.getField(name).pos();
    }

    /** Reads Confluent's frame; {@code take} must copy what it keeps, for the record is used again. */
    static <T> Serde<T> serde(Function<GenericRecord, T> take) {
        return Serdes.serdeFrom((topic, it) -> {
            throw new UnsupportedOperationException("readings are only read");
        }, new ReadingDeserializer<>(take));
    }

    /** Runs until a signal; tells when all its partitions are restored and run. */
    static void run(StreamsBuilder builder, Properties config) {
        KafkaStreams streams = new KafkaStreams(builder.build(), config);
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) {
                System.out.println("ready at " + System.currentTimeMillis());
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(10))));
        streams.start();
    }

    static Properties config() {
        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, ENV.get("BENCH_GROUP"));
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, ENV.get("BENCH_KAFKA"));
        config.put(StreamsConfig.STATE_DIR_CONFIG, ENV.get("BENCH_STATE"));
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG,
                Long.parseLong(ENV.getOrDefault("BENCH_COMMIT_MS", "1000")));
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, Long.parseLong(ENV.get("BENCH_CACHE_BYTES")));
        return config;
    }

    /** Confluent's frame and Apache Avro, record and decoder reused: one a thread, as Kafka Streams asks for. */
    private static final class ReadingDeserializer<T> implements Deserializer<T> {
        private static final class Decoder {
            final GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(SCHEMA);
            BinaryDecoder bytes;
            GenericRecord record;
        }

        private final ThreadLocal<Decoder> decoders = ThreadLocal.withInitial(Decoder::new);
        private final Function<GenericRecord, T> take;

        ReadingDeserializer(Function<GenericRecord, T> take) {
            this.take = take;
        }

        @Override
        public T deserialize(String topic, byte[] data) {
            tellFirst();
            Decoder decoder = decoders.get();
            try {
                decoder.bytes = DecoderFactory.get().binaryDecoder(data, 5, data.length - 5, decoder.bytes);
                decoder.record = decoder.reader.read(decoder.record, decoder.bytes);
            } catch (IOException error) {
                throw new SerializationException(error);
            }
            return take.apply(decoder.record);
        }
    }
}
