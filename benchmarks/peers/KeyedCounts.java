import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Properties;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.util.Utf8;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;

/** The state by key of benchmarks/keyed.py in Kafka Streams' own DSL, with its own RocksDB and changelog. */
public final class KeyedCounts {
    private static final int AMOUNT = Readings.field("amount");
    private static final int COST = Readings.field("cost");
    private static final int NOTE = Readings.field("note");
    private static final int SUMS_BYTES = 24;

    record Reading(long amount, double cost, byte[] note) {
        static Reading of(GenericRecord record) {
            Utf8 note = (Utf8) record.get(NOTE);
            byte[] copy = Arrays.copyOf(note.getBytes(), note.getByteLength());
            return new Reading((Long) record.get(AMOUNT), (Double) record.get(COST), copy);
        }
    }

    record Figures(long count, long amount, double cost, byte[] note) {
        static final Figures NONE = new Figures(0, 0, 0.0, new byte[0]);

        Figures plus(Reading reading) {
            return new Figures(count + 1, amount + reading.amount, cost + reading.cost, reading.note);
        }
    }

    public static void main(String[] args) {
        Serde<Reading> readings = Readings.serde(Reading::of);
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(Readings.ENV.get("BENCH_INPUT"), Consumed.with(Serdes.String(), readings))
                .groupByKey(Grouped.with(Serdes.String(), readings))
                .aggregate(() -> Figures.NONE, (key, reading, figures) -> figures.plus(reading),
                        Materialized.<String, Figures, KeyValueStore<Bytes, byte[]>>as("counts")
                                .withKeySerde(Serdes.String()).withValueSerde(figures()));
        Properties config = Readings.config();
        // A static member, as ours is: it finds its partitions again without waiting for its predecessor's end.
        config.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG),
                Readings.ENV.get("BENCH_IDENTITY"));
        Readings.run(builder, config);
    }

    private static Serde<Figures> figures() {
        return Serdes.serdeFrom(
                (topic, it) -> it == null ? null : ByteBuffer.allocate(SUMS_BYTES + it.note().length)
                        .putLong(it.count()).putLong(it.amount()).putDouble(it.cost()).put(it.note()).array(),
                (topic, data) -> {
                    if (data == null) {
                        return null;
                    }
                    ByteBuffer buffer = ByteBuffer.wrap(data);
                    return new Figures(buffer.getLong(), buffer.getLong(), buffer.getDouble(),
                            Arrays.copyOfRange(data, SUMS_BYTES, data.length));
                });
    }
}
