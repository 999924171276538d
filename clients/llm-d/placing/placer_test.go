package placing

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	eldr "eldr.internal/client"
	"eldr.internal/client/eldrpb"
)

// The daemon of these tests has workers d0 to d5 of the model "tiny" at http://10.0.0.N:8000, two layers of
// four experts, and no partition, so that loads alone decide.
func router(t *testing.T) *Placer {
	t.Helper()
	at := os.Getenv("ELDR_TEST_ROUTER")
	if at == "" {
		t.Skip("needs a daemon: tests/gateways/test_placing.py starts one")
	}
	placer, err := New(at, Options{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { placer.Close() })
	return placer
}

func address(number int) string { return fmt.Sprintf("10.0.0.%d:8000", number) }

// body of a decode request, as its prefill's answer makes it.
func body(t *testing.T, id string, said map[string]any) map[string]any {
	t.Helper()
	counts, err := proto.Marshal(&eldrpb.ActivationCounts{
		NumLayers: 2, NumExperts: 4, TopK: 1, NumTokens: 1,
		Encoding: &eldrpb.ActivationCounts_DenseU16{DenseU16: []byte{1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}},
	})
	if err != nil {
		t.Fatal(err)
	}
	eldr := map[string]any{"model": "tiny", "request_id": id, "counts": base64.StdEncoding.EncodeToString(counts)}
	maps.Copy(eldr, said)
	text, err := json.Marshal(map[string]any{"kv_transfer_params": map[string]any{"remote_port": 1, "eldr": eldr}})
	if err != nil {
		t.Fatal(err)
	}
	var read map[string]any
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	return read
}

func asked(t *testing.T, id string, said map[string]any) *Prefilled {
	t.Helper()
	found, err := Read(body(t, id, said))
	if err != nil || found == nil {
		t.Fatalf("Read: %v, %v", found, err)
	}
	return found
}

func TestOnlyTheEndpointsGivenAreTaken(t *testing.T) {
	placer := router(t)
	for number := range 12 {
		only := address(number % 6)
		booking, err := placer.Place(t.Context(), asked(t, fmt.Sprint(t.Name(), number), nil), []string{only})
		if errors.Is(err, ErrElsewhere) && number < 6 {
			continue // it knows too few of the others yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if booking.Address != only {
			t.Fatalf("expected %s, found %s", only, booking.Address)
		}
		booking.End(Completed, 3)
	}
}

func TestWorkersOfNoEndpointAreSaidToBeElsewhere(t *testing.T) {
	placer := router(t)
	for number := range 4 {
		_, err := placer.Place(t.Context(), asked(t, fmt.Sprint(t.Name(), number), nil), []string{"10.9.9.9:1"})
		var refused *eldr.Error // once all are known to be elsewhere, none is left
		if !errors.Is(err, ErrElsewhere) && !errors.As(err, &refused) {
			t.Fatalf("expected ErrElsewhere or a refusal, found %v", err)
		}
	}
}

func TestABookingThatThePrefillEngineHoldsIsTaken(t *testing.T) {
	placer := router(t)
	first, err := placer.client.Route(t.Context(), &eldrpb.RouteRequest{Model: "tiny", RequestId: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]any{"placement": map[string]any{
		"worker_id": first.GetWorkerId(), "url": first.GetUrl(), "attempt": 0, "lease_id": first.GetLeaseId(),
	}}
	booking, err := placer.Place(t.Context(), asked(t, t.Name(), said), []string{AddressOf(first.GetUrl())})
	if err != nil || booking.leaseID != first.GetLeaseId() {
		t.Fatalf("expected the lease %s, found %v, %v", first.GetLeaseId(), booking, err)
	}
	var others []string
	for number := range 6 {
		if address(number) != booking.Address {
			others = append(others, address(number))
		}
	}
	again, err := placer.Place(t.Context(), asked(t, t.Name(), said), others)
	if err != nil || !slices.Contains(others, again.Address) || again.attempt == 0 {
		t.Fatalf("expected a later attempt at another endpoint, found %v, %v", again, err)
	}
	again.End(Completed, 0)
}

func TestTheDecodeEngineIsToldOfItsBooking(t *testing.T) {
	placer := router(t)
	whole := body(t, t.Name(), nil)
	whole["n"] = 2.0
	read, err := Read(whole)
	if err != nil {
		t.Fatal(err)
	}
	booking, err := placer.Place(t.Context(), read, nil)
	if err != nil {
		t.Fatal(err)
	}
	booking.Sign()
	text, _ := json.Marshal(whole["kv_transfer_params"])
	expected := fmt.Sprintf(`{"eldr":{"attempt":0,"lease_id":%q,"num_sequences":2,"request_id":%q},"remote_port":1}`,
		booking.leaseID, t.Name())
	if string(text) != expected {
		t.Fatalf("expected %s, found %s", expected, text)
	}
	if signed, err := Read(whole); signed != nil || err != nil {
		t.Fatalf("a signed request is read again: %v, %v", signed, err)
	}
	booking.End(Cancelled, 0)
}

func TestWithoutADaemonNothingIsPlaced(t *testing.T) {
	placer, err := New("127.0.0.1:1", Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer placer.Close()
	if _, err := placer.Place(context.Background(), asked(t, t.Name(), nil), nil); !errors.Is(err, eldr.ErrRouterUnavailable) {
		t.Fatalf("expected ErrRouterUnavailable, found %v", err)
	}
}

func TestWhatIsReadOfABody(t *testing.T) {
	inner := body(t, "r", nil)["kv_transfer_params"]
	generate := map[string]any{"sampling_params": map[string]any{
		"n": 3.0, "extra_args": map[string]any{"kv_transfer_params": inner},
	}}
	if found, err := Read(generate); err != nil || found.Sequences != 3 || found.Counts.GetNumTokens() != 1 {
		t.Errorf("of /inference/v1/generate: %v, %v", found, err)
	}
	for name, each := range map[string]map[string]any{
		"no params":     {},
		"other params":  {"kv_transfer_params": map[string]any{"remote_port": 1}},
		"null":          {"kv_transfer_params": nil},
		"a placed one":  body(t, "r", map[string]any{"lease_id": "x"}),
		"another shape": {"kv_transfer_params": map[string]any{"eldr": "x"}},
	} {
		if found, err := Read(each); found != nil || err != nil {
			t.Errorf("%s: expected nothing, found %v, %v", name, found, err)
		}
	}
	for name, said := range map[string]map[string]any{
		"no id":         {"request_id": ""},
		"an id":         {"request_id": 7},
		"no base64":     {"counts": "*"},
		"no message":    {"counts": "/////w=="},
		"the placement": {"placement": []any{}},
	} {
		if found, err := Read(body(t, "r", said)); err == nil {
			t.Errorf("%s: expected an error, found %v", name, found)
		}
	}
}

func TestAddresses(t *testing.T) {
	for given, expected := range map[string]string{
		"http://10.0.0.7:8000":  "10.0.0.7:8000",
		"http://10.0.0.7:8000/": "10.0.0.7:8000",
		"https://Decode-0":      "decode-0:443",
		"http://[fd00::1]":      "[fd00::1]:80",
		"10.0.0.7:8000":         "",
		"":                      "",
	} {
		if found := AddressOf(given); found != expected {
			t.Errorf("%s: expected %q, found %q", given, expected, found)
		}
	}
}
