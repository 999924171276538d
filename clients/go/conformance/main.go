// The Go client's program for eldr-conformance.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	eldr "eldr.internal/client"
	"eldr.internal/client/eldrpb"
)

type command struct {
	ID       int             `json:"id"`
	Call     string          `json:"call"`
	Of       int             `json:"of"`
	Timeout  float64         `json:"timeout"`
	Target   string          `json:"target"`
	Token    string          `json:"token"`
	Fallback json.RawMessage `json:"fallback_workers"`
	Counts   *counts         `json:"counts"`
	Decode   *counts         `json:"decode_counts"`
	Leases   [][]any         `json:"leases"`
	Body     struct {
		Seconds      float64 `json:"seconds"`
		Ends         string  `json:"ends"`
		OutputTokens uint32  `json:"output_tokens"`
	} `json:"body"`
}

type counts struct {
	Array         [][]uint32 `json:"array"`
	TopK          int        `json:"top_k"`
	UnknownTokens int        `json:"unknown_tokens"`
	LayerOffset   int        `json:"layer_offset"`
	NumLayers     int        `json:"num_layers"`
}

func (c *counts) proto() (*eldrpb.ActivationCounts, error) {
	if c == nil {
		return nil, nil
	}
	return eldr.Counts{
		Rows: c.Array, TopK: c.TopK, UnknownTokens: c.UnknownTokens,
		LayerOffset: c.LayerOffset, NumLayers: c.NumLayers,
	}.Proto()
}

var errInvalid = errors.New("invalid value")

type driver struct {
	client  *eldr.Client
	timeout float64
	writing sync.Mutex
	calls   sync.WaitGroup
	mu      sync.Mutex
	cancels map[int]context.CancelFunc
}

func main() {
	d := &driver{cancels: map[int]context.CancelFunc{}}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		d.take(append([]byte(nil), lines.Bytes()...))
	}
	d.calls.Wait()
	d.client.Close()
}

func (d *driver) take(line []byte) {
	var c command
	var named struct {
		ID int `json:"id"`
	}
	if err := json.Unmarshal(line, &c); err != nil {
		json.Unmarshal(line, &named)
		d.answer(named.ID, nil, fmt.Errorf("%w: %w", errInvalid, err))
		return
	}
	switch c.Call {
	case "open":
		result, err := d.open(c)
		d.answer(c.ID, result, err)
	case "cancel":
		d.mu.Lock()
		d.cancels[c.Of]()
		d.mu.Unlock()
		d.answer(c.ID, map[string]any{}, nil)
	default:
		ctx, cancel := context.WithCancel(context.Background())
		if c.Timeout > 0 {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(c.Timeout*1e9))
		}
		d.mu.Lock()
		d.cancels[c.ID] = cancel
		d.mu.Unlock()
		d.calls.Add(1)
		go func() {
			defer d.calls.Done()
			defer cancel()
			result, err := d.do(ctx, c, line)
			d.answer(c.ID, result, err)
		}()
	}
}

func (d *driver) open(c command) (any, error) {
	workers, err := workersOf(c.Fallback)
	if err != nil {
		return nil, err
	}
	d.client, err = eldr.NewClient(c.Target, eldr.Options{
		Timeout: time.Duration(c.Timeout * 1e9), Token: c.Token, FallbackWorkers: workers,
	})
	return map[string]any{"lacks": []string{}}, err
}

func workersOf(raw json.RawMessage) ([]eldr.Worker, error) {
	perModel := map[string][][]any{}
	if len(raw) > 0 && raw[0] == '[' {
		var all [][]any
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, err
		}
		perModel[""] = all
	} else if len(raw) > 0 {
		if err := json.Unmarshal(raw, &perModel); err != nil {
			return nil, err
		}
	}
	var workers []eldr.Worker
	for model, all := range perModel {
		for _, each := range all {
			workers = append(workers, eldr.Worker{
				ID: each[0].(string), URL: each[1].(string), DPRank: uint32(each[2].(float64)), Model: model,
			})
		}
	}
	return workers, nil
}

func (d *driver) do(ctx context.Context, c command, line []byte) (any, error) {
	given, err := c.Counts.proto()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	switch c.Call {
	case "counts":
		bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(given)
		return map[string]any{"bytes": hex.EncodeToString(bytes)}, err
	case "route":
		request := &eldrpb.RouteRequest{}
		if err := fields(line, request); err != nil {
			return nil, err
		}
		request.Counts = given
		placement, err := d.client.Route(ctx, request)
		return described(placement), err
	case "place":
		request := &eldrpb.RouteRequest{}
		if err := fields(line, request); err != nil {
			return nil, err
		}
		request.Counts = given
		return d.place(ctx, c, request)
	case "release":
		request := &eldrpb.ReleaseRequest{}
		if err := fields(line, request); err != nil {
			return nil, err
		}
		if request.DecodeCounts, err = c.Decode.proto(); err != nil {
			return nil, err
		}
		result, err := d.client.Release(ctx, request)
		if result == eldrpb.ReleaseResult_RELEASE_RESULT_UNSPECIFIED {
			return map[string]any{"result": nil}, err
		}
		return map[string]any{"result": result.String()[len("RELEASE_RESULT_"):]}, err
	case "renew":
		request := &eldrpb.RenewLeasesRequest{}
		if err := fields(line, request); err != nil {
			return nil, err
		}
		for _, each := range c.Leases {
			request.Leases = append(request.Leases, &eldrpb.LeaseReference{
				RequestId: each[0].(string), Attempt: uint32(each[1].(float64)), LeaseId: each[2].(string),
			})
		}
		answer, err := d.client.RenewLeases(ctx, request)
		unknown := [][]any{}
		for _, each := range answer.GetUnknown() {
			unknown = append(unknown, []any{each.GetRequestId(), each.GetAttempt()})
		}
		return map[string]any{"unknown": unknown}, err
	case "register_signature":
		request := &eldrpb.RegisterSignatureRequest{Last: true}
		if err := fields(line, request); err != nil {
			return nil, err
		}
		request.Counts = given
		answer, err := d.client.RegisterSignature(ctx, request)
		return map[string]any{"tokens_held": answer.GetTokensHeld(), "complete": answer.GetComplete()}, err
	case "stream_signature":
		request := &eldrpb.StreamSignaturesRequest{}
		if err := fields(line, request); err != nil {
			return nil, err
		}
		request.Counts = given
		placement, err := d.client.StreamSignature(ctx, request)
		if placement == nil {
			return map[string]any{"placement": nil}, err
		}
		return map[string]any{"placement": described(placement)}, err
	}
	return nil, fmt.Errorf("no call of the protocol: %s", c.Call)
}

func (d *driver) place(ctx context.Context, c command, request *eldrpb.RouteRequest) (any, error) {
	held, err := d.client.Place(ctx, request)
	if err != nil {
		return nil, err
	}
	held.OutputTokens = c.Body.OutputTokens
	select {
	case <-time.After(time.Duration(c.Body.Seconds * 1e9)):
		err = nil
	case <-ctx.Done():
		err = ctx.Err()
	}
	if c.Body.Ends == "raise" {
		held.Done(errors.New("the decode failed"))
	} else {
		held.Done(err)
	}
	return described(held.Placement), err
}

// fields fills request from the command's fields of the same names.
func fields(line []byte, request proto.Message) error {
	values := map[string]any{}
	if err := json.Unmarshal(line, &values); err != nil {
		return err
	}
	for _, name := range []string{"counts", "decode_counts", "leases", "body", "timeout"} {
		delete(values, name)
	}
	written(values)
	if _, ok := values["last"]; !ok {
		values["last"] = true // the protocol's default
	}
	if outcome, ok := values["outcome"].(string); ok {
		values["outcome"] = "RELEASE_OUTCOME_" + outcome
	} else if _, ok := request.(*eldrpb.ReleaseRequest); ok {
		values["outcome"] = "RELEASE_OUTCOME_COMPLETED"
	}
	if route, ok := values["route"].(map[string]any); ok {
		written(route)
	}
	text, err := json.Marshal(values)
	if err != nil {
		return err
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(text, request)
}

// written turns seconds into the text that a Duration has in JSON.
func written(values map[string]any) {
	for _, name := range []string{"wait_for_signature", "max_wait", "lease_ttl", "decode_duration"} {
		if seconds, ok := values[name].(float64); ok {
			values[name] = fmt.Sprintf("%.9fs", seconds)
		}
	}
}

func described(p *eldrpb.Placement) map[string]any {
	if p == nil {
		return nil
	}
	alternates := [][]any{}
	for _, each := range p.GetAlternates() {
		alternates = append(alternates, []any{each.GetWorkerId(), each.GetUrl(), each.GetDpRank()})
	}
	return map[string]any{
		"worker_id": p.GetWorkerId(), "url": p.GetUrl(), "dp_rank": p.GetDpRank(), "alternates": alternates,
		"reason": p.GetReason().String()[len("PLACEMENT_REASON_"):], "is_fallback": eldr.IsFallback(p),
		"repeated": p.GetRepeated(), "stale": p.GetStale(), "policy": p.GetPolicy(),
		"partition_version": p.GetPartitionVersion(), "lease_id": p.GetLeaseId(),
		"similarity": p.Similarity, "coverage": p.GetCoverage(), "early": p.GetEarly(),
	}
}

func (d *driver) answer(id int, result any, err error) {
	said := map[string]any{"id": id, "result": result}
	if err != nil {
		said = map[string]any{"id": id, "error": failure(err)}
	}
	text, _ := json.Marshal(said)
	d.writing.Lock()
	defer d.writing.Unlock()
	fmt.Println(string(text))
}

var kinds = map[string]string{
	"InvalidArgument": "INVALID_ARGUMENT", "NotFound": "NOT_FOUND", "FailedPrecondition": "FAILED_PRECONDITION",
	"ResourceExhausted": "RESOURCE_EXHAUSTED", "Unavailable": "UNAVAILABLE",
	"Unauthenticated": "UNAUTHENTICATED", "PermissionDenied": "PERMISSION_DENIED",
}

func failure(err error) map[string]any {
	var refused *eldr.Error
	switch {
	case errors.Is(err, context.Canceled):
		return map[string]any{"kind": "CANCELLED"}
	case errors.Is(err, errInvalid):
		return map[string]any{"kind": "INVALID_VALUE", "message": err.Error()}
	case errors.Is(err, eldr.ErrRouterUnavailable):
		return map[string]any{"kind": "ROUTER_UNAVAILABLE"}
	case errors.Is(err, eldr.ErrRouterFault):
		return map[string]any{"kind": "ROUTER_FAULT"}
	case errors.As(err, &refused):
		said := map[string]any{
			"kind": kinds[refused.Code.String()], "message": refused.Message, "reason": refused.Reason,
			"field": refused.Field, "expected": refused.Expected, "found": refused.Found,
		}
		if refused.RetryAfter > 0 {
			said["retry_after"] = refused.RetryAfter.Seconds()
		}
		return said
	}
	return map[string]any{"kind": "BROKEN", "message": err.Error()}
}
