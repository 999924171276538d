#include "eldr/counts.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <stdexcept>
#include <string>

namespace eldr {
namespace {

// In protobuf's encoding: one byte for every seven bits.
std::size_t varint_bytes(std::uint32_t value) { return (std::bit_width(value | 1) + 6) / 7; }

std::string little_endian(std::span<const std::uint32_t> counts, int width) {
  std::string bytes;
  bytes.reserve(counts.size() * width);
  for (const auto count : counts) {
    for (int byte = 0; byte < width; ++byte) bytes.push_back(static_cast<char>(count >> 8 * byte));
  }
  return bytes;
}

void encode(std::span<const std::uint32_t> counts, v1::ActivationCounts& message) {
  const auto most = std::ranges::max(counts);
  if (most == 0) return;  // no tokens: the contract lets the encoding be unset
  const int width = most > 0xffff ? 4 : 2;
  std::size_t nonzero = 0, sparse_bytes = 0;
  for (std::uint32_t index = 0; index < counts.size(); ++index) {
    if (counts[index] == 0) continue;
    ++nonzero;
    sparse_bytes += varint_bytes(index) + varint_bytes(counts[index]);
  }
  if (sparse_bytes >= counts.size() * width) {
    auto& bytes = width == 2 ? *message.mutable_dense_u16() : *message.mutable_dense_u32();
    bytes = little_endian(counts, width);
    return;
  }
  auto& sparse = *message.mutable_sparse();
  sparse.mutable_index()->Reserve(static_cast<int>(nonzero));
  sparse.mutable_count()->Reserve(static_cast<int>(nonzero));
  for (std::uint32_t index = 0; index < counts.size(); ++index) {
    if (counts[index] == 0) continue;
    sparse.add_index(index);
    sparse.add_count(counts[index]);
  }
}

}  // namespace

v1::ActivationCounts Counts::encoded() const {
  using std::to_string;
  if (experts == 0 || counts.empty() || counts.size() % experts != 0) {
    throw std::invalid_argument("counts: expected layers x experts of them, found " +
                                to_string(counts.size()) + " with " + to_string(experts) +
                                " experts");
  }
  if (top_k < 1 || top_k > experts) {
    throw std::invalid_argument("top_k: expected 1 to " + to_string(experts) + " experts, found " +
                                to_string(top_k));
  }
  const auto layers = counts.size() / experts;
  const auto sum = [&](std::size_t row) {
    const auto values = counts.subspan(row * experts, experts);
    return std::accumulate(values.begin(), values.end(), std::uint64_t{0});
  };
  const auto first = sum(0);
  for (std::size_t row = 0; row < layers; ++row) {
    if (const auto found = sum(row); found != first || found % top_k != 0) {
      throw std::invalid_argument(
          "counts: expected each row to sum to tokens x " + to_string(top_k) + ", found " +
          to_string(first) + " in row 0 and " + to_string(found) + " in row " + to_string(row));
    }
  }
  v1::ActivationCounts message;
  message.set_num_layers(num_layers ? num_layers
                                    : layer_offset + static_cast<std::uint32_t>(layers));
  message.set_layer_offset(layer_offset);
  message.set_layers_present(static_cast<std::uint32_t>(layers));
  message.set_num_experts(static_cast<std::uint32_t>(experts));
  message.set_top_k(top_k);
  message.set_num_tokens(static_cast<std::uint32_t>(first / top_k));
  message.set_unknown_tokens(unknown_tokens);
  encode(counts, message);
  return message;
}

}  // namespace eldr
