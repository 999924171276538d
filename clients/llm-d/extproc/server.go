// Package extproc serves Envoy's external processing protocol: a decode request that carries what its prefill
// left gets the endpoint that ELDR picks, in a header. Every other request passes as it is.
package extproc

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"eldr.internal/llm-d/placing"
)

// Server decides for the requests of any number of Envoys.
type Server struct {
	pb.UnimplementedExternalProcessorServer
	Placer *placing.Placer
	// Header takes the endpoint, IP:PORT. With the endpoint picker protocol it is
	// x-gateway-destination-endpoint.
	Header string
	Logger *slog.Logger
}

// exchange is one HTTP request and its response: one stream.
type exchange struct {
	*Server
	booking *placing.Booking
	outcome placing.Outcome
}

// Process answers each of Envoy's messages. The stream ends with the response, however that ends, and the
// booking with it.
func (s *Server) Process(stream pb.ExternalProcessor_ProcessServer) error {
	e := &exchange{Server: s, outcome: placing.Cancelled}
	defer func() {
		if e.booking != nil {
			e.booking.End(e.outcome, 0)
		}
	}()
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(e.answer(stream, message)); err != nil {
			return err
		}
	}
}

func (e *exchange) answer(stream pb.ExternalProcessor_ProcessServer, message *pb.ProcessingRequest) *pb.ProcessingResponse {
	switch part := message.GetRequest().(type) {
	case *pb.ProcessingRequest_RequestBody:
		return e.requestBody(stream, part.RequestBody)
	case *pb.ProcessingRequest_ResponseHeaders:
		e.responseHeaders(part.ResponseHeaders)
		return responseHeadersPass()
	case *pb.ProcessingRequest_ResponseBody:
		e.sees(part.ResponseBody.GetEndOfStream())
		return responseBodyPass()
	case *pb.ProcessingRequest_ResponseTrailers:
		e.sees(true)
		return responseTrailersPass()
	case *pb.ProcessingRequest_RequestTrailers:
		return requestTrailersPass()
	default:
		return requestHeadersPass()
	}
}

func (e *exchange) requestBody(stream pb.ExternalProcessor_ProcessServer, part *pb.HttpBody) *pb.ProcessingResponse {
	if !part.GetEndOfStream() {
		// A part of a body cannot be read, and the mode BUFFERED sends none.
		e.Logger.Warn("a body came in parts: set request_body_mode to BUFFERED")
		return requestBodyPass()
	}
	var body map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(part.GetBody())))
	decoder.UseNumber() // numbers go on as they came
	if err := decoder.Decode(&body); err != nil {
		return requestBodyPass() // not JSON: not for ELDR, and the engine's to refuse
	}
	asked, err := placing.Read(body)
	if err != nil {
		e.Logger.Warn("what the prefill said is not readable", "error", err)
	}
	if asked == nil {
		return requestBodyPass()
	}
	booking, err := e.Placer.Place(stream.Context(), asked, nil)
	if err != nil {
		e.Logger.Info("no placement", "request_id", asked.RequestID, "error", err)
		return requestBodyPass()
	}
	booking.Sign()
	signed, err := json.Marshal(body)
	if err != nil { // what was decoded can be encoded
		e.Logger.Error("the body is not JSON any more", "error", err)
		booking.End(placing.Cancelled, 0)
		return requestBodyPass()
	}
	e.booking = booking
	headers := map[string]string{
		e.Header:         booking.Address,
		"content-length": strconv.Itoa(len(signed)), // Envoy refuses a body of another length
	}
	if name, value := booking.RankHeader(); name != "" {
		headers[name] = value
	}
	e.Logger.Debug("placed", "request_id", asked.RequestID, "endpoint", booking.Address)
	return placed(headers, e.Header, booking.Address, signed)
}

// responseHeaders: a worker's own errors count against it, a caller's do not.
func (e *exchange) responseHeaders(part *pb.HttpHeaders) {
	for _, header := range part.GetHeaders().GetHeaders() {
		if header.GetKey() == ":status" {
			said := string(header.GetRawValue()) + header.GetValue()
			if strings.HasPrefix(said, "5") {
				e.outcome = placing.Failed
			}
		}
	}
	if part.GetEndOfStream() {
		e.sees(true)
	} else if e.outcome != placing.Failed {
		// Where Envoy does not send the body, the stream ends alike for an answer that is whole and for a
		// caller that went.
		e.outcome = placing.Unsaid
	}
}

// sees a part of the response, the last or an earlier one.
func (e *exchange) sees(end bool) {
	switch {
	case e.outcome == placing.Failed:
	case end:
		e.outcome = placing.Completed
	default:
		e.outcome = placing.Cancelled
	}
}
