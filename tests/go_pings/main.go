// Holds a stream and an idle connection to a gRPC server with pings, and says what became of them.
//
// Usage: go_pings HOST:PORT SECONDS
//
// Prints one line per connection when the time is over: its name, how many connections were
// begun for it, and how its stream or its last call ended.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// Ten seconds is the shortest time that grpc-go allows.
var pings = keepalive.ClientParameters{
	Time: 10 * time.Second, Timeout: 20 * time.Second, PermitWithoutStream: true,
}

type connections struct{ begun atomic.Int32 }

func (c *connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (c *connections) HandleRPC(context.Context, stats.RPCStats) {}

func (c *connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (c *connections) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, ok := event.(*stats.ConnBegin); ok {
		c.begun.Add(1)
	}
}

func dial(address string) (*grpc.ClientConn, *connections) {
	seen := &connections{}
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(pings), grpc.WithIdleTimeout(0), grpc.WithStatsHandler(seen))
	if err != nil {
		panic(err)
	}
	return connection, seen
}

// idle connects once, makes no call until the end, and then one.
func idle(address string, end time.Time) string {
	connection, seen := dial(address)
	defer connection.Close()
	connection.Connect()
	time.Sleep(time.Until(end))
	_, err := grpc_health_v1.NewHealthClient(connection).Check(context.Background(), &grpc_health_v1.HealthCheckRequest{})
	return fmt.Sprintf("idle %d %s", seen.begun.Load(), status.Convert(err).Message())
}

// streaming watches the server's health, on which nothing is ever sent after the first answer.
func streaming(address string, end time.Time) string {
	connection, seen := dial(address)
	defer connection.Close()
	// Not a deadline: the server is told of those, and may be the first to end the stream by it.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	time.AfterFunc(time.Until(end), cancel)
	stream, err := grpc_health_v1.NewHealthClient(connection).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	for err == nil {
		_, err = stream.Recv()
	}
	said := status.Convert(err).Message()
	if ctx.Err() != nil {
		said = "" // it was we who ended it
	}
	return fmt.Sprintf("streaming %d %s", seen.begun.Load(), said)
}

func main() {
	seconds, err := strconv.ParseFloat(os.Args[2], 64)
	if err != nil {
		panic(err)
	}
	end := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	lines := make(chan string)
	for _, hold := range []func(string, time.Time) string{idle, streaming} {
		go func() { lines <- hold(os.Args[1], end) }()
	}
	fmt.Println(<-lines)
	fmt.Println(<-lines)
}
