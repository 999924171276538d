#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "eldr/v1/activation.pb.h"

namespace eldr {

/// How often the tokens of a prefill, or of a part of it, picked each expert.
struct Counts {
  /// Row-major [layers, experts]: a row per MoE layer that is present, a count per logical routed
  /// expert. Each row sums to tokens x top_k.
  std::span<const std::uint32_t> counts;
  /// Logical routed experts per layer.
  std::size_t experts = 0;
  /// Experts that each token picks in each layer.
  std::uint32_t top_k = 0;
  /// Prompt tokens whose experts could not be known; they are in no row.
  std::uint32_t unknown_tokens = 0;
  /// The first layer present, for a pipeline rank that sends its own.
  std::uint32_t layer_offset = 0;
  /// MoE layers of the whole model; 0 stands for layer_offset plus the rows.
  std::uint32_t num_layers = 0;

  /// The contract's message, encoded dense or sparse, whichever is smaller.
  ///
  /// @throws std::invalid_argument says which rows do not fit together.
  v1::ActivationCounts encoded() const;
};

}  // namespace eldr
