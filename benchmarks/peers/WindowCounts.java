import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.WindowStore;

/** The windows of benchmarks/windows.py in Kafka Streams' own DSL, with its own RocksDB and changelog. */
public final class WindowCounts {
    private static final int TIME = Readings.field("time");
    private static final int AMOUNT = Readings.field("amount");
    private static final int COST = Readings.field("cost");

    record Reading(long timeMs, long amount, double cost) {
        static Reading of(GenericRecord record) {
            return new Reading((Long) record.get(TIME) / 1_000, (Long) record.get(AMOUNT), (Double) record.get(COST));
        }
    }

    record Figures(long count, long amount, double cost) {
        static final Figures NONE = new Figures(0, 0, 0.0);

        Figures plus(Reading reading) {
            return new Figures(count + 1, amount + reading.amount, cost + reading.cost);
        }
    }

    public static void main(String[] args) {
        Serde<Reading> readings = Readings.serde(Reading::of);
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(Readings.ENV.get("BENCH_INPUT"), Consumed.with(Serdes.String(), readings)
                        .withTimestampExtractor((record, before) -> ((Reading) record.value()).timeMs()))
                .groupByKey(Grouped.with(Serdes.String(), readings))
                .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofSeconds(10), Duration.ofSeconds(60)))
                .aggregate(() -> Figures.NONE, (key, reading, figures) -> figures.plus(reading),
                        Materialized.<String, Figures, WindowStore<Bytes, byte[]>>as("windows")
                                .withKeySerde(Serdes.String()).withValueSerde(figures()))
                .toStream()
                .map((window, figures) ->
                        new KeyValue<>(outputKey(window.window().start(), window.key()), figures))
                .to(Readings.ENV.get("BENCH_OUTPUT"), Produced.with(Serdes.ByteArray(), figures()));
        Readings.run(builder, Readings.config());
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
}
