package plugin

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llm-d/llm-d-router/pkg/epp/datalayer"
	fwkdl "github.com/llm-d/llm-d-router/pkg/epp/framework/interface/datalayer"
	fwkplugin "github.com/llm-d/llm-d-router/pkg/epp/framework/interface/plugin"
	fwkrc "github.com/llm-d/llm-d-router/pkg/epp/framework/interface/requestcontrol"
	fwksched "github.com/llm-d/llm-d-router/pkg/epp/framework/interface/scheduling"
	attrprefix "github.com/llm-d/llm-d-router/pkg/epp/framework/plugins/datalayer/attribute/prefix"
	"github.com/llm-d/llm-d-router/pkg/epp/framework/plugins/requestcontrol/dataproducer/approximateprefix"
	"github.com/llm-d/llm-d-router/pkg/epp/framework/plugins/requestcontrol/dataproducer/tokenizer"
	"github.com/llm-d/llm-d-router/pkg/epp/framework/plugins/requesthandling/parsers/openai"
	"github.com/prometheus/client_golang/prometheus"
)

// picker is the part of llm-d's endpoint picker that a decode profile with ELDR's filter needs. Its daemon is
// away, so that llm-d's own choice stands.
type picker struct {
	*testing.T
	decode    *Decode
	producers []fwkrc.DataProducer
}

// newPicker has the filter with these parameters, the producers of prefix matches of these names, and what
// llm-d adds for them.
func newPicker(t *testing.T, parameters map[string]any, producers ...string) *picker {
	t.Helper()
	registry := map[string]fwkplugin.FactoryFunc{
		tokenizer.PluginType:                          tokenizer.PluginFactory,
		approximateprefix.ApproxPrefixCachePluginType: approximateprefix.ApproxPrefixCacheFactory,
	}
	defaults := map[string]string{
		tokenizer.TokenizedPromptDataKey.String():       tokenizer.PluginType,
		attrprefix.PrefixCacheMatchInfoDataKey.String(): approximateprefix.ApproxPrefixCachePluginType,
	}
	handle := fwkplugin.NewEppHandle(t.Context(), nil, fwkplugin.WithMetricsRecorder(prometheus.NewRegistry()))
	given := map[string]any{"router": "127.0.0.1:1"}
	maps.Copy(given, parameters)
	text, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	made, err := New(Type, json.NewDecoder(strings.NewReader(string(text))), handle)
	if err != nil {
		t.Fatal(err)
	}
	handle.AddPlugin(Type, made)
	for _, name := range producers {
		producer, err := approximateprefix.ApproxPrefixCacheFactory(name, nil, handle)
		if err != nil {
			t.Fatal(err)
		}
		handle.AddPlugin(name, producer)
	}
	if err := datalayer.CreateMissingDataProducers(t.Context(), defaults, registry, handle); err != nil {
		t.Fatal(err)
	}
	ordered, err := datalayer.ValidateAndOrderDataDependencies(handle.GetAllPlugins())
	if err != nil {
		t.Fatal(err)
	}
	found := &picker{T: t, decode: made.(*Decode)}
	for _, name := range ordered {
		for _, each := range handle.GetAllPlugins() {
			if producer, ok := each.(fwkrc.DataProducer); ok && each.TypedName().String() == name {
				found.producers = append(found.producers, producer)
			}
		}
	}
	return found
}

// asks has the request as llm-d reads it, and the endpoints with what its producers leave at them.
func (p *picker) asks(id, prompt string) (*fwksched.InferenceRequest, []fwksched.Endpoint) {
	p.Helper()
	eldr := map[string]any{"model": "tiny", "request_id": id}
	text, err := json.Marshal(map[string]any{
		"model": "tiny", "prompt": prompt, "kv_transfer_params": map[string]any{"eldr": eldr},
	})
	if err != nil {
		p.Fatal(err)
	}
	parsed, err := openai.NewOpenAIParser().ParseRequest(p.Context(), text, map[string]string{":path": "/v1/completions"})
	if err != nil {
		p.Fatal(err)
	}
	request := &fwksched.InferenceRequest{RequestID: id, TargetModel: "tiny", Body: parsed.Body}
	var endpoints []fwksched.Endpoint
	for number := range 3 {
		metadata := &fwkdl.EndpointMetadata{
			ID: fwkdl.ID{Name: fmt.Sprint("decode-", number)}, Address: fmt.Sprint("10.0.0.", number), Port: "8000",
		}
		endpoints = append(endpoints, fwksched.NewEndpoint(metadata, fwkdl.NewMetrics(), nil))
	}
	for _, producer := range p.producers {
		if err := producer.Produce(p.Context(), request, endpoints); err != nil {
			p.Fatal(err)
		}
	}
	return request, endpoints
}

// serves sends the prompt to the endpoint, and waits until llm-d has noted it.
func (p *picker) serves(id, prompt string, number int) {
	p.Helper()
	request, endpoints := p.asks(id, prompt)
	if left := p.decode.Filter(p.Context(), request, endpoints); len(left) != len(endpoints) {
		p.Fatalf("expected all endpoints while the daemon is away, found %v", left)
	}
	result := &fwksched.SchedulingResult{
		PrimaryProfileName: "decode",
		ProfileResults: map[string]*fwksched.ProfileRunResult{
			"decode": {TargetEndpoints: endpoints[number : number+1]},
		},
	}
	for _, producer := range p.producers {
		if follower, ok := producer.(fwkrc.PreRequest); ok {
			if err := follower.PreRequest(p.Context(), request, result); err != nil {
				p.Fatal(err)
			}
		}
	}
	for deadline := time.Now().Add(10 * time.Second); p.holds(id, prompt)[number] != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			p.Fatal("llm-d never noted it")
		}
	}
}

// holds is the share of the prompt that each endpoint is said to hold.
func (p *picker) holds(id, prompt string) (shares []float64) {
	p.Helper()
	request, endpoints := p.asks(id, prompt)
	for _, endpoint := range endpoints {
		shares = append(shares, p.decode.cached(request, endpoint))
	}
	return shares
}

// Of 1,000 bytes, 250 tokens as llm-d estimates them: three blocks of 64, and one of 58.
var first = strings.Repeat("a question ", 91)[:1000]

func TestASecondTurnFindsTheFirst(t *testing.T) {
	p := newPicker(t, nil, approximateprefix.ApproxPrefixCachePluginType)
	if shares := p.holds("1", first); !slices.Equal(shares, []float64{0, 0, 0}) {
		t.Fatalf("expected none, found %v", shares)
	}
	p.serves("1", first, 1)
	if shares := p.holds("1", first); !slices.Equal(shares, []float64{0, 1, 0}) {
		t.Fatalf("expected the whole prompt at the second endpoint, found %v", shares)
	}
	second := first + strings.Repeat("an answer, and another question ", 50)[:600]
	if shares := p.holds("2", second); !slices.Equal(shares, []float64{0, 192.0 / 400, 0}) {
		t.Fatalf("expected three blocks of 400 tokens at the second endpoint, found %v", shares)
	}
}

func TestAProducerIsReadByItsName(t *testing.T) {
	named := map[string]any{"prefixMatchInfoProducerName": "mine"}
	p := newPicker(t, named, approximateprefix.ApproxPrefixCachePluginType, "mine")
	p.serves("1", first, 2)
	p.producers = slices.DeleteFunc(p.producers, func(each fwkrc.DataProducer) bool {
		return each.TypedName().Name == "mine"
	})
	if shares := p.holds("2", first); !slices.Equal(shares, []float64{0, 0, 0}) {
		t.Fatalf("expected nothing of another producer's, found %v", shares)
	}
}

func TestWithoutAProducerNothingIsHeldAndNothingFails(t *testing.T) {
	p := newPicker(t, nil)
	if len(p.producers) > 0 {
		t.Fatalf("expected none to be added for this filter's sake, found %v", p.producers)
	}
	request, endpoints := p.asks("1", first)
	if left := p.decode.Filter(t.Context(), request, endpoints); len(left) != len(endpoints) {
		t.Fatalf("expected all endpoints, found %v", left)
	}
	if shares := p.holds("1", first); !slices.Equal(shares, []float64{0, 0, 0}) {
		t.Fatalf("expected none, found %v", shares)
	}
}
