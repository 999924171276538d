package eldr

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	"eldr.internal/client/eldrpb"
)

// Counts tells how often the tokens of a prefill, or of a part of it, picked each expert.
type Counts struct {
	// Rows has one row of counts per MoE layer that is present, one count per logical routed expert.
	// Each row sums to tokens x TopK.
	Rows [][]uint32
	// TopK is how many experts each token picks in each layer.
	TopK int
	// UnknownTokens are prompt tokens whose experts could not be known; they are in no row.
	UnknownTokens int
	// LayerOffset is the first layer present, for a pipeline rank that sends its own.
	LayerOffset int
	// NumLayers of the whole model; 0 stands for LayerOffset plus the rows.
	NumLayers int
}

// Proto is the contract's message, encoded dense or sparse, whichever is smaller. The error says which
// rows do not fit together.
func (c Counts) Proto() (*eldrpb.ActivationCounts, error) {
	if len(c.Rows) == 0 || len(c.Rows[0]) == 0 {
		return nil, fmt.Errorf("counts: expected at least one layer and one expert, found none")
	}
	experts := len(c.Rows[0])
	if c.TopK < 1 || c.TopK > experts {
		return nil, fmt.Errorf("top_k: expected 1 to %d experts, found %d", experts, c.TopK)
	}
	var first uint64
	for i, row := range c.Rows {
		if len(row) != experts {
			return nil, fmt.Errorf("counts: expected %d experts in row %d, found %d", experts, i, len(row))
		}
		var sum uint64
		for _, count := range row {
			sum += uint64(count)
		}
		if i == 0 {
			first = sum
		}
		if sum != first || sum%uint64(c.TopK) != 0 {
			return nil, fmt.Errorf(
				"counts: expected each row to sum to tokens x %d, found %d in row 0 and %d in row %d",
				c.TopK, first, sum, i)
		}
	}
	message := &eldrpb.ActivationCounts{
		NumLayers:     uint32(c.NumLayers),
		LayerOffset:   uint32(c.LayerOffset),
		LayersPresent: uint32(len(c.Rows)),
		NumExperts:    uint32(experts),
		TopK:          uint32(c.TopK),
		NumTokens:     uint32(first / uint64(c.TopK)),
		UnknownTokens: uint32(c.UnknownTokens),
	}
	if c.NumLayers == 0 {
		message.NumLayers = uint32(c.LayerOffset + len(c.Rows))
	}
	c.encode(message)
	return message, nil
}

func (c Counts) encode(message *eldrpb.ActivationCounts) {
	sparse := &eldrpb.SparseCounts{}
	var most uint32
	size, experts := 0, len(c.Rows[0])
	for i, row := range c.Rows {
		for j, count := range row {
			if count == 0 {
				continue
			}
			index := uint32(i*experts + j)
			sparse.Index, sparse.Count = append(sparse.Index, index), append(sparse.Count, count)
			size += varint(index) + varint(count)
			most = max(most, count)
		}
	}
	width := 2
	if most > math.MaxUint16 {
		width = 4
	}
	switch dense := len(c.Rows) * experts * width; {
	case most == 0: // no tokens: the contract lets the encoding be unset
	case size < dense:
		message.Encoding = &eldrpb.ActivationCounts_Sparse{Sparse: sparse}
	case width == 2:
		bytes := make([]byte, 0, dense)
		for _, row := range c.Rows {
			for _, count := range row {
				bytes = binary.LittleEndian.AppendUint16(bytes, uint16(count))
			}
		}
		message.Encoding = &eldrpb.ActivationCounts_DenseU16{DenseU16: bytes}
	default:
		bytes := make([]byte, 0, dense)
		for _, row := range c.Rows {
			for _, count := range row {
				bytes = binary.LittleEndian.AppendUint32(bytes, count)
			}
		}
		message.Encoding = &eldrpb.ActivationCounts_DenseU32{DenseU32: bytes}
	}
}

// varint is the bytes of value in protobuf's encoding: one for every seven bits.
func varint(value uint32) int { return (max(bits.Len32(value), 1) + 6) / 7 }
