// Package plugin is ELDR inside the endpoint picker of llm-d's router (github.com/llm-d/llm-d-router, v0.10):
// the filter `eldr-decode` of the decode profile. The module that builds the endpoint picker requires llm-d's
// router, at the version that it is built with; this one names none.
package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	fwkdl "github.com/llm-d/llm-d-router/pkg/epp/framework/interface/datalayer"
	fwkplugin "github.com/llm-d/llm-d-router/pkg/epp/framework/interface/plugin"
	fwkrc "github.com/llm-d/llm-d-router/pkg/epp/framework/interface/requestcontrol"
	fwksched "github.com/llm-d/llm-d-router/pkg/epp/framework/interface/scheduling"
	attrprefix "github.com/llm-d/llm-d-router/pkg/epp/framework/plugins/datalayer/attribute/prefix"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"eldr.internal/llm-d/placing"
)

// Type is the plugin's name in an EndpointPickerConfig.
const Type = "eldr-decode"

// Register makes the plugin known to llm-d's runner. Call it before the runner starts.
func Register() { fwkplugin.Register(Type, fwkplugin.StabilityBeta, New) }

var (
	_ fwkplugin.ConsumerPlugin      = (*Decode)(nil)
	_ fwksched.Filter               = (*Decode)(nil)
	_ fwkrc.PreRequest              = (*Decode)(nil)
	_ fwkrc.ResponseHeaderProcessor = (*Decode)(nil)
	_ fwkrc.ResponseBodyProcessor   = (*Decode)(nil)
)

// Parameters of the plugin.
type Parameters struct {
	// Router is HOST:PORT of the daemon, or of its replicas with commas between them.
	Router string `json:"router"`
	// Timeout of a decision, "50ms" by default. Without one in time the other plugins choose.
	Timeout string `json:"timeout"`
	// PrefixMatchInfoProducerName is the plugin that says how much of a prompt endpoints hold,
	// approx-prefix-cache-producer by default. Where it is not configured ELDR is told nothing.
	PrefixMatchInfoProducerName string `json:"prefixMatchInfoProducerName"`
	placing.Credentials
}

// Decode narrows the endpoints to the one that ELDR books, where the request says what its prefill used.
type Decode struct {
	name    fwkplugin.TypedName
	placer  *placing.Placer
	matches fwkplugin.DataKey
}

// New is the plugin's factory.
func New(name string, raw *json.Decoder, handle fwkplugin.Handle) (fwkplugin.Plugin, error) {
	given := Parameters{Router: "127.0.0.1:50051"}
	if raw != nil {
		if err := raw.Decode(&given); err != nil {
			return nil, fmt.Errorf("%s: %w", Type, err)
		}
	}
	var options placing.Options
	if given.Timeout != "" {
		timeout, err := time.ParseDuration(given.Timeout)
		if err != nil || timeout <= 0 {
			return nil, fmt.Errorf("%s: timeout: expected a duration above 0 such as 50ms, found %q", Type, given.Timeout)
		}
		options.Timeout = timeout
	}
	if err := given.Credentials.Into(&options.Client); err != nil {
		return nil, fmt.Errorf("%s: %w", Type, err)
	}
	placer, err := placing.New(given.Router, options)
	if err != nil {
		return nil, fmt.Errorf("%s: router: %w", Type, err)
	}
	context.AfterFunc(handle.Context(), func() { _ = placer.Close() })
	matches := attrprefix.PrefixCacheMatchInfoDataKey.WithNonEmptyProducerName(given.PrefixMatchInfoProducerName)
	return &Decode{name: fwkplugin.TypedName{Type: Type, Name: name}, placer: placer, matches: matches}, nil
}

// TypedName is the plugin's type and its name in the configuration.
func (d *Decode) TypedName() fwkplugin.TypedName { return d.name }

// Consumes names what is read of endpoints, if it is there.
func (d *Decode) Consumes() fwkplugin.DataDependencies {
	return fwkplugin.DataDependencies{
		Optional: map[fwkplugin.DataKey]any{d.matches: attrprefix.PrefixCacheMatchInfo{}},
	}
}

// held is what this plugin knows of a request from Filter to its end.
type held struct {
	booking *placing.Booking
	// life is the stream's: done when Envoy has closed it, whatever the reason.
	life   context.Context
	failed bool
}

func (d *Decode) key() string { return Type + "/" + d.name.Name }

func (d *Decode) of(request *fwksched.InferenceRequest) *held {
	found, _ := fwksched.ReadRequestAttribute[*held](request, d.key())
	return found
}

// Filter asks ELDR, which picks one of the endpoints and books it. All of them stay where it has no word.
// It has to be the profile's last filter: what a later one drops could not be booked elsewhere.
func (d *Decode) Filter(ctx context.Context, request *fwksched.InferenceRequest, endpoints []fwksched.Endpoint) []fwksched.Endpoint {
	if request == nil || request.Body == nil || request.Body.Payload == nil || request.Body.Messages != nil {
		// The end of /v1/messages is not told to plugins, so a booking could not be ended with it.
		return endpoints
	}
	body, isJSON := request.Body.Payload.AsMap()
	if !isJSON || len(endpoints) == 0 {
		return endpoints
	}
	logger := log.FromContext(ctx).WithName(Type)
	asked, err := placing.Read(body)
	if err != nil {
		logger.Error(err, "what the prefill said is not readable")
	}
	if asked == nil {
		return endpoints
	}
	at := make(map[string]fwksched.Endpoint, len(endpoints))
	offered := make([]placing.Endpoint, 0, len(endpoints))
	for _, endpoint := range endpoints {
		address := addressOf(endpoint.GetMetadata())
		at[address] = endpoint
		offered = append(offered, placing.Endpoint{Address: address, Cached: d.cached(request, endpoint)})
	}
	booking, err := d.placer.Place(ctx, asked, offered)
	if err != nil {
		logger.Info("no placement, the other plugins choose", "request_id", asked.RequestID, "reason", err.Error())
		return endpoints
	}
	request.PutAttribute(d.key(), &held{booking: booking, life: ctx})
	// However the request ends, its stream ends; what has been said of the outcome before then stands.
	context.AfterFunc(ctx, func() { booking.End(placing.Cancelled, 0) })
	return []fwksched.Endpoint{at[booking.Address]}
}

// cached is the share of the prompt that the endpoint holds. It is a share because llm-d may have estimated the
// tokens, while the prefill has counted them.
func (d *Decode) cached(request *fwksched.InferenceRequest, endpoint fwksched.Endpoint) float64 {
	match, found := fwkdl.ReadAttribute[*attrprefix.PrefixCacheMatchInfo](endpoint, d.matches.String())
	tokens := request.Body.TokenizedPrompt.TokenCount()
	if !found || tokens == 0 {
		return 0
	}
	// A prompt's last block may be shorter than the others.
	return min(1, float64(match.CachedBlockCount()*match.BlockSizeTokens())/float64(tokens))
}

// PreRequest tells the decode engine's connector of the booking; one that another choice has overtaken ends.
func (d *Decode) PreRequest(_ context.Context, request *fwksched.InferenceRequest, result *fwksched.SchedulingResult) error {
	known := d.of(request)
	if known == nil {
		return nil
	}
	primary := result.ProfileResults[result.PrimaryProfileName]
	if primary == nil || len(primary.TargetEndpoints) == 0 ||
		addressOf(primary.TargetEndpoints[0].GetMetadata()) != known.booking.Address {
		known.booking.End(placing.Cancelled, 0)
		return nil
	}
	known.booking.Sign()
	if name, value := known.booking.RankHeader(); name != "" {
		request.Headers[name] = value
	}
	return nil
}

// ResponseHeader: a worker's own errors count against it, a caller's do not.
func (d *Decode) ResponseHeader(_ context.Context, request *fwksched.InferenceRequest, response *fwkrc.Response, _ *fwkdl.EndpointMetadata) {
	if known := d.of(request); known != nil && strings.HasPrefix(response.Headers[":status"], "5") {
		known.failed = true
	}
}

// ResponseBody ends the booking with the answer's last part.
func (d *Decode) ResponseBody(_ context.Context, request *fwksched.InferenceRequest, response *fwkrc.Response, _ *fwkdl.EndpointMetadata) {
	if !response.EndOfStream {
		return
	}
	known := d.of(request)
	if known == nil {
		return
	}
	outcome := placing.Completed
	switch {
	case known.failed:
		outcome = placing.Failed
	case errors.Is(known.life.Err(), context.Canceled):
		outcome = placing.Cancelled
	}
	known.booking.End(outcome, uint32(max(response.Usage.CompletionTokens, 0)))
}

func addressOf(endpoint *fwkdl.EndpointMetadata) string {
	return net.JoinHostPort(endpoint.GetIPAddress(), endpoint.GetPort())
}
