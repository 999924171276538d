package eldr

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"eldr.internal/client/eldrpb"
)

// signatureStream sends a message and waits for its answer, as a unary call does, on a call that stays
// open. It opens on first use, and again after it has broken. Messages take turns.
type signatureStream struct {
	life   context.Context
	router eldrpb.RouterServiceClient
	turn   chan struct{}
	open   *openStream
}

type openStream struct {
	calls   eldrpb.RouterService_StreamSignaturesClient
	end     context.CancelFunc
	answers chan *eldrpb.StreamSignaturesResponse
	broken  chan error
}

func newSignatureStream(life context.Context, router eldrpb.RouterServiceClient) *signatureStream {
	return &signatureStream{life: life, router: router, turn: make(chan struct{}, 1)}
}

// exchange returns the answer to request, or what the stream ended with.
func (s *signatureStream) exchange(
	ctx context.Context, request *eldrpb.StreamSignaturesRequest,
) (*eldrpb.StreamSignaturesResponse, error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	defer func() { <-s.turn }()
	if s.open != nil {
		select {
		case <-s.open.broken: // while it was idle
			s.close()
		default:
		}
	}
	if s.open == nil {
		if err := s.begin(); err != nil {
			return nil, err
		}
	}
	// An error of Send only says that Recv has the true one.
	_ = s.open.calls.Send(request)
	select {
	case answer := <-s.open.answers:
		return answer, nil
	case err := <-s.open.broken:
		s.close()
		return nil, err
	case <-ctx.Done():
		s.close() // a late answer would be taken for that of the next message
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (s *signatureStream) begin() error {
	ctx, end := context.WithCancel(s.life)
	calls, err := s.router.StreamSignatures(ctx)
	if err != nil {
		end()
		return err
	}
	s.open = &openStream{calls, end, make(chan *eldrpb.StreamSignaturesResponse, 1), make(chan error, 1)}
	go s.open.read(ctx)
	return nil
}

func (s *signatureStream) close() {
	s.open.end()
	s.open = nil
}

func (o *openStream) read(ctx context.Context) {
	for {
		answer, err := o.calls.Recv()
		if err != nil {
			if status.Code(err) == codes.Unknown { // io.EOF: the router ended it
				err = status.Error(codes.Unavailable, "the router ended the stream")
			}
			o.broken <- err
			return
		}
		select {
		case o.answers <- answer:
		case <-ctx.Done():
			return
		}
	}
}
