package eldr.client;

import com.google.protobuf.ByteString;
import eldr.v1.ActivationCounts;
import eldr.v1.SparseCounts;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * How often the tokens of a prefill, or of a part of it, picked each expert:
 *
 * <pre>{@code
 * ActivationCounts counts = Counts.of(rows, 8).unknownTokens(5).build();
 * }</pre>
 */
public final class Counts {
  private static final int MOST_OF_U16 = 0xFFFF;

  private final int[][] rows;
  private final int topK;
  private int unknownTokens;
  private int layerOffset;
  private int numLayers;

  private Counts(int[][] rows, int topK) {
    this.rows = rows;
    this.topK = topK;
  }

  /**
   * Counts of the layers that are present.
   *
   * @param rows one row per MoE layer, one count per logical routed expert; each row sums to tokens
   *     x topK
   * @param topK how many experts each token picks in each layer
   */
  public static Counts of(int[][] rows, int topK) {
    return new Counts(rows, topK);
  }

  /** Prompt tokens whose experts could not be known; they are in no row. */
  public Counts unknownTokens(int tokens) {
    unknownTokens = atLeastZero("unknown_tokens", tokens);
    return this;
  }

  /** The first layer present, for a pipeline rank that sends its own. */
  public Counts layerOffset(int layer) {
    layerOffset = atLeastZero("layer_offset", layer);
    return this;
  }

  /** Layers of the whole model; 0, the default, stands for the offset plus the rows. */
  public Counts numLayers(int layers) {
    numLayers = atLeastZero("num_layers", layers);
    return this;
  }

  /**
   * The contract's message, dense or sparse, whichever is smaller.
   *
   * @throws IllegalArgumentException says which counts do not fit together
   */
  public ActivationCounts build() {
    long tokens = check();
    ActivationCounts.Builder message =
        ActivationCounts.newBuilder()
            .setNumLayers(numLayers == 0 ? layerOffset + rows.length : numLayers)
            .setLayerOffset(layerOffset)
            .setLayersPresent(rows.length)
            .setNumExperts(rows[0].length)
            .setTopK(topK)
            .setNumTokens(Math.toIntExact(tokens))
            .setUnknownTokens(unknownTokens);
    if (tokens > 0) { // else the contract lets the encoding be unset
      encode(message);
    }
    return message.build();
  }

  /** The number of tokens. */
  private long check() {
    if (rows.length == 0 || rows[0].length == 0) {
      throw invalid("counts: expected at least one layer and one expert, found none");
    }
    int experts = rows[0].length;
    if (topK < 1 || topK > experts) {
      throw invalid("top_k: expected 1 to %d experts, found %d", experts, topK);
    }
    long first = 0;
    for (int layer = 0; layer < rows.length; layer++) {
      if (rows[layer].length != experts) {
        throw invalid(
            "counts: expected %d experts in row %d, found %d", experts, layer, rows[layer].length);
      }
      long sum = 0;
      for (int count : rows[layer]) {
        sum += atLeastZero("counts", count);
      }
      first = layer == 0 ? sum : first;
      if (sum != first || sum % topK != 0) {
        throw invalid(
            "counts: expected each row to sum to tokens x %d, found %d in row 0 and %d in row %d",
            topK, first, sum, layer);
      }
    }
    if (first / topK > Integer.MAX_VALUE) {
      throw invalid("counts: expected at most 2^26 tokens, found %d", first / topK);
    }
    return first / topK;
  }

  private void encode(ActivationCounts.Builder message) {
    SparseCounts.Builder sparse = SparseCounts.newBuilder();
    int most = 0;
    long size = 0;
    int experts = rows[0].length;
    for (int layer = 0; layer < rows.length; layer++) {
      for (int expert = 0; expert < experts; expert++) {
        int count = rows[layer][expert];
        if (count > 0) {
          int index = layer * experts + expert;
          sparse.addIndex(index).addCount(count);
          size += varint(index) + varint(count);
          most = Math.max(most, count);
        }
      }
    }
    int width = most > MOST_OF_U16 ? Integer.BYTES : Short.BYTES;
    if (size < (long) rows.length * experts * width) {
      message.setSparse(sparse);
    } else if (width == Short.BYTES) {
      message.setDenseU16(dense(width));
    } else {
      message.setDenseU32(dense(width));
    }
  }

  private ByteString dense(int width) {
    ByteBuffer bytes =
        ByteBuffer.allocate(rows.length * rows[0].length * width).order(ByteOrder.LITTLE_ENDIAN);
    for (int[] row : rows) {
      for (int count : row) {
        if (width == Short.BYTES) {
          bytes.putShort((short) count);
        } else {
          bytes.putInt(count);
        }
      }
    }
    return ByteString.copyFrom(bytes.flip());
  }

  /** The bytes of value in protobuf's encoding: one for every seven bits. */
  private static int varint(int value) {
    return (Math.max(Integer.SIZE - Integer.numberOfLeadingZeros(value), 1) + 6) / 7;
  }

  private static int atLeastZero(String what, int value) {
    if (value < 0) {
      throw invalid("%s: expected 0 or more, found %d", what, value);
    }
    return value;
  }

  private static IllegalArgumentException invalid(String message, Object... values) {
    return new IllegalArgumentException(String.format(message, values));
  }
}
