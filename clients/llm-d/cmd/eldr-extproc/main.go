// Command eldr-extproc gives Envoy the decode endpoint that ELDR picks, by the external processing protocol.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	eldr "eldr.internal/client"
	"eldr.internal/llm-d/extproc"
	"eldr.internal/llm-d/placing"
)

// Responses under way have so long to end after SIGTERM.
const drain = 30 * time.Second

// A body is one message: as large as the largest that Envoy is set to buffer.
const largest = 64 << 20

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "eldr-extproc:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:9003", "where Envoy finds this; beyond loopback it has no credentials of its own, so keep it in the pod of the Envoy")
	router := flag.String("router", "127.0.0.1:50051", "the daemon, or its replicas with commas between them")
	timeout := flag.Duration("timeout", placing.DefaultTimeout, "of a decision; without one in time Envoy chooses")
	header := flag.String("header", "x-gateway-destination-endpoint", "the header that takes the endpoint")
	var credentials placing.Credentials
	flag.StringVar(&credentials.TokenFile, "token-file", "", "a bearer token with the role `route`")
	flag.BoolVar(&credentials.TLS, "tls", false, "TLS to the daemon, by the system's roots")
	flag.StringVar(&credentials.CAFile, "tls-ca", "", "TLS to the daemon, by these authorities; PEM")
	flag.StringVar(&credentials.CertFile, "tls-cert", "", "for a daemon that asks for a certificate; PEM")
	flag.StringVar(&credentials.KeyFile, "tls-key", "", "of --tls-cert; PEM")
	verbose := flag.Bool("verbose", false, "log each placement")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("expected flags alone, found %q", flag.Arg(0))
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	options := placing.Options{Timeout: *timeout, Client: eldr.Options{Logger: logger}}
	if err := credentials.Into(&options.Client); err != nil {
		return err
	}
	placer, err := placing.New(*router, options)
	if err != nil {
		return err
	}
	defer placer.Close()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(largest))
	pb.RegisterExternalProcessorServer(server, &extproc.Server{Placer: placer, Header: *header, Logger: logger})
	healthpb.RegisterHealthServer(server, health.NewServer())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, func() {
		time.AfterFunc(drain, server.Stop)
		server.GracefulStop()
	})
	logger.Info("serving", "address", listener.Addr().String())
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}
