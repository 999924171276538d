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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
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

func endpoints() []Endpoint {
	var all []Endpoint
	for number := range 6 {
		all = append(all, Endpoint{Address: address(number)})
	}
	return all
}

// encoded are the counts of a prompt whose known tokens all use the first expert.
func encoded(t *testing.T, known, unknown byte) string {
	t.Helper()
	counts, err := proto.Marshal(&eldrpb.ActivationCounts{
		NumLayers: 2, NumExperts: 4, TopK: 1, NumTokens: uint32(known), UnknownTokens: uint32(unknown),
		Encoding: &eldrpb.ActivationCounts_DenseU16{DenseU16: []byte{known, 0, 0, 0, 0, 0, 0, 0, known, 0, 0, 0, 0, 0, 0, 0}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(counts)
}

// body of a decode request, as its prefill's answer makes it.
func body(t *testing.T, id string, said map[string]any) map[string]any {
	t.Helper()
	eldr := map[string]any{"model": "tiny", "request_id": id, "counts": encoded(t, 1, 0)}
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
		booking, err := placer.Place(t.Context(), asked(t, fmt.Sprint(t.Name(), number), nil), []Endpoint{{Address: only}})
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
		_, err := placer.Place(t.Context(), asked(t, fmt.Sprint(t.Name(), number), nil), []Endpoint{{Address: "10.9.9.9:1"}})
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
	booking, err := placer.Place(t.Context(), asked(t, t.Name(), said), []Endpoint{{Address: AddressOf(first.GetUrl())}})
	if err != nil || booking.leaseID != first.GetLeaseId() {
		t.Fatalf("expected the lease %s, found %v, %v", first.GetLeaseId(), booking, err)
	}
	others := slices.DeleteFunc(endpoints(), func(each Endpoint) bool { return each.Address == booking.Address })
	again, err := placer.Place(t.Context(), asked(t, t.Name(), said), others)
	if err != nil || !slices.Contains(others, Endpoint{Address: again.Address}) || again.attempt == 0 {
		t.Fatalf("expected a later attempt at another endpoint, found %v, %v", again, err)
	}
	again.End(Completed, 0)
}

// heldBy is what the daemon knew of the workers' caches when it placed a request.
func heldBy(t *testing.T, id string) map[string]uint32 {
	t.Helper()
	connection, err := grpc.NewClient(os.Getenv("ELDR_TEST_ROUTER"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	request := &eldrpb.ExplainRequest{Model: "tiny", RequestId: id}
	answer, err := eldrpb.NewRouterServiceClient(connection).Explain(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]uint32{}
	for _, score := range answer.GetPlacement().GetScores() {
		if score.GetCachedTokens() > 0 {
			found[score.GetWorkerId()] = score.GetCachedTokens()
		}
	}
	return found
}

func TestTheDaemonIsToldWhatEndpointsHoldOfThePrompt(t *testing.T) {
	placer, offered := router(t), endpoints()
	said := map[string]any{"counts": encoded(t, 90, 10)}
	first, err := placer.Place(t.Context(), asked(t, t.Name(), said), offered)
	if err != nil {
		t.Fatal(err)
	}
	defer first.End(Completed, 0)
	if held := heldBy(t, t.Name()); len(held) > 0 {
		t.Fatalf("expected none, found %v", held)
	}
	for number := range offered {
		if offered[number].Address == first.Address {
			offered[number].Cached = 0.25
		}
	}
	second, err := placer.Place(t.Context(), asked(t, t.Name()+"2", said), offered)
	if err != nil {
		t.Fatal(err)
	}
	defer second.End(Completed, 0)
	if held := heldBy(t, t.Name()+"2"); !maps.Equal(held, map[string]uint32{first.workerID: 25}) {
		t.Fatalf("expected 25 of 100 tokens at %s, found %v", first.workerID, held)
	}
}

func TestWhatIsCachedIsKnownOfWorkersWithAnEndpointOfTheirOwn(t *testing.T) {
	var known directory
	at := func(id, url string, rank uint32) *eldrpb.WorkerTarget {
		return &eldrpb.WorkerTarget{WorkerId: id, Url: url, DpRank: rank}
	}
	known.learn("tiny", &eldrpb.Placement{WorkerId: "a", Url: "http://10.0.0.1:8000", Alternates: []*eldrpb.WorkerTarget{
		at("b", "http://10.0.0.2:8000", 0), at("c/dp0", "http://10.0.0.3:8000", 0), at("c/dp1", "http://10.0.0.3:8000", 1),
	}})
	offered := map[string]Endpoint{}
	for _, address := range []string{"10.0.0.1:8000", "10.0.0.3:8000", "10.0.0.4:8000"} {
		offered[address] = Endpoint{Address: address, Cached: 0.29} // times 100, in floats, is a little below 29
	}
	if found := known.cached("tiny", offered, 100); !maps.Equal(found, map[string]uint32{"a": 29}) {
		t.Fatalf("expected 29 tokens at a alone, found %v", found)
	}
	if found := known.cached("another", offered, 100); len(found) > 0 {
		t.Fatalf("expected none of another model, found %v", found)
	}
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
