// Package placing asks ELDR on which decode endpoint a prefilled request goes, by what its prefill left in
// the request's body. It knows neither llm-d nor Envoy.
package placing

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/proto"

	"eldr.internal/client/eldrpb"
)

const (
	paramsKey = "kv_transfer_params"
	eldrKey   = "eldr"
)

// Prefilled is what a prefill engine with ELDR's connector has said of a request.
type Prefilled struct {
	Model, RequestID string
	// Counts are the experts of its prompt; nil where none were captured.
	Counts *eldrpb.ActivationCounts
	// Sequences that the request runs (n).
	Sequences uint32

	params map[string]any
	placed *placed
}

// placed is a booking that the prefill engine has asked for already (the connector's `place: daemon`).
type placed struct {
	WorkerID string `json:"worker_id"`
	URL      string `json:"url"`
	DPRank   uint32 `json:"dp_rank"`
	Attempt  uint32 `json:"attempt"`
	LeaseID  string `json:"lease_id"`
}

// Read finds what the prefill has said in the body of a decode request: kv_transfer_params.eldr at the top,
// or in sampling_params.extra_args as vLLM's /inference/v1/generate has it. Both results are nil for a
// request that was not prefilled by an engine with ELDR's connector, or whose decode is booked already.
// The error says what is wrong in what it has.
func Read(body map[string]any) (*Prefilled, error) {
	params := paramsOf(body)
	said, _ := params[eldrKey].(map[string]any)
	if said == nil || said["lease_id"] != nil {
		return nil, nil
	}
	found := &Prefilled{Sequences: sequencesOf(body), params: params}
	var encoded string
	for _, each := range []struct {
		key  string
		into *string
	}{{"model", &found.Model}, {"request_id", &found.RequestID}, {"counts", &encoded}} {
		text, isText := said[each.key].(string)
		if !isText && said[each.key] != nil {
			return nil, fmt.Errorf("eldr.%s: expected a string, found %T", each.key, said[each.key])
		}
		*each.into = text
	}
	if found.Model == "" || found.RequestID == "" {
		return nil, fmt.Errorf("eldr: expected model and request_id, found %q and %q", found.Model, found.RequestID)
	}
	if encoded != "" {
		found.Counts = &eldrpb.ActivationCounts{}
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err == nil {
			err = proto.Unmarshal(raw, found.Counts)
		}
		if err != nil {
			return nil, fmt.Errorf("eldr.counts: expected ActivationCounts in base64: %w", err)
		}
	}
	if said["placement"] != nil {
		again, err := json.Marshal(said["placement"])
		if err == nil {
			err = json.Unmarshal(again, &found.placed)
		}
		if err != nil {
			return nil, fmt.Errorf("eldr.placement: expected a placement: %w", err)
		}
	}
	return found, nil
}

func paramsOf(body map[string]any) map[string]any {
	if params, ok := body[paramsKey].(map[string]any); ok {
		return params
	}
	sampling, _ := body["sampling_params"].(map[string]any)
	extra, _ := sampling["extra_args"].(map[string]any)
	params, _ := extra[paramsKey].(map[string]any)
	return params
}

func sequencesOf(body map[string]any) uint32 {
	sampling, _ := body["sampling_params"].(map[string]any)
	for _, at := range []map[string]any{body, sampling} {
		switch n := at["n"].(type) {
		case float64: // as encoding/json reads it
			if n >= 1 && n <= 1<<16 {
				return uint32(n)
			}
		case json.Number:
			if whole, err := n.Int64(); err == nil && whole >= 1 && whole <= 1<<16 {
				return uint32(whole)
			}
		}
	}
	return 1
}
