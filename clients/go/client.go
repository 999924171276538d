// Package eldr asks an ELDR router for decode placements.
//
// The messages are the contract's own (package eldrpb). No call fails because the router is away: Route
// and Place then answer with a worker of the client's own choice (IsFallback), and releases are kept
// until the router is back.
package eldr

import (
	"context"
	"crypto/tls"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // replicas that drain say so
	"google.golang.org/grpc/keepalive"

	"eldr.internal/client/eldrpb"
)

const (
	defaultTimeout = 250 * time.Millisecond
	// Close waits so long for releases that are still unsaid.
	farewell = time.Second
)

// Options of a client. The zero value is for a daemon on this host.
type Options struct {
	// Timeout of a call whose context has no deadline; 0 stands for 250 ms. What the request itself
	// asks to wait for comes on top.
	Timeout time.Duration
	// Token is a bearer token. Without TLS it goes out in the clear.
	Token string
	// TLS, where the router serves it.
	TLS *tls.Config
	// FallbackWorkers are known before the first placement names any.
	FallbackWorkers []Worker
	// Logger; slog.Default() where nil.
	Logger *slog.Logger
}

// Client is a connection to the router, for any number of goroutines. It connects on first use and
// reconnects by itself.
type Client struct {
	timeout  time.Duration
	logger   *slog.Logger
	conn     *grpc.ClientConn
	router   eldrpb.RouterServiceClient
	several  bool
	pool     *pool
	breaker  breaker
	unsaid   unsaid
	stream   *signatureStream
	closing  context.CancelFunc
	life     context.Context
	chores   sync.WaitGroup
	wakes    chan struct{}
	isClosed sync.Once
}

// NewClient for the router at target: HOST:PORT, several of them with commas between them for replicas,
// or dns:///NAME:PORT for all addresses of a name. The error says what is wrong with the target.
func NewClient(target string, options Options) (*Client, error) {
	found, err := parseAddresses(target)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(found.target, dialOptions(found, options)...)
	if err != nil {
		return nil, err
	}
	life, closing := context.WithCancel(context.Background())
	c := &Client{
		timeout: options.Timeout,
		logger:  options.Logger,
		conn:    conn,
		router:  eldrpb.NewRouterServiceClient(conn),
		several: found.several,
		pool:    newPool(options.FallbackWorkers),
		life:    life,
		closing: closing,
		wakes:   make(chan struct{}, 1),
	}
	if c.timeout == 0 {
		c.timeout = defaultTimeout
	}
	if c.logger == nil {
		c.logger = slog.Default()
	}
	c.stream = newSignatureStream(life, c.router)
	c.chores.Add(1)
	go c.doChores()
	return c, nil
}

func dialOptions(found addresses, options Options) []grpc.DialOption {
	secured := insecure.NewCredentials()
	if options.TLS != nil {
		secured = credentials.NewTLS(options.TLS)
	}
	// A router that came back is found again within a quarter of a second or so.
	again := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 250 * time.Millisecond}
	alive := keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(secured),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: time.Second}),
		grpc.WithKeepaliveParams(alive),
		grpc.WithDisableRetry(), // the client's own tries have one deadline together
	}
	if options.Token != "" {
		dial = append(dial, grpc.WithPerRPCCredentials(bearer(options.Token)))
	}
	if found.builder != nil {
		dial = append(dial, grpc.WithResolvers(found.builder))
	}
	if found.several {
		dial = append(dial, grpc.WithDefaultServiceConfig(
			`{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}`))
	}
	return dial
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

// Close says what is still unsaid, for a second at most, and disconnects.
func (c *Client) Close() error {
	var err error
	c.isClosed.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), farewell)
		defer cancel()
		for !c.breaker.isOpen() && ctx.Err() == nil {
			request := c.unsaid.take()
			if request == nil {
				break
			}
			c.say(ctx, request)
		}
		if left := c.unsaid.clear(); left > 0 {
			c.logger.Warn("releases are left to expire", "count", left)
		}
		c.closing()
		c.chores.Wait()
		err = c.conn.Close()
	})
	return err
}
