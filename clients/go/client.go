// Package containersvc is a client of container-svc: one connection that bears
// the token, speaks TLS where the address asks for it, and repeats calls that
// may be repeated.
package containersvc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	pb "container-svc/clients/go/containersvc/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// largestAnswer holds a page of log lines with their exact bytes.
const largestAnswer = 16 << 20

// Client is one connection and the services on it. It may be used by many
// goroutines at once.
type Client struct {
	Assets     pb.AssetServiceClient
	Builds     pb.BuildServiceClient
	Containers pb.ContainerServiceClient
	Events     pb.EventServiceClient
	Gpus       pb.GpuServiceClient
	Images     pb.ImageServiceClient
	Keeps      pb.KeepServiceClient
	Logs       pb.LogServiceClient
	Node       pb.NodeServiceClient
	Tokens     pb.TokenServiceClient

	connection *grpc.ClientConn
}

type settings struct {
	token   string
	roots   *x509.CertPool
	retries bool
}

// Option changes how a Client is made.
type Option func(*settings) error

// Token is sent with every call.
func Token(token string) Option {
	return func(s *settings) error {
		s.token = strings.TrimSpace(token)
		return nil
	}
}

// TokenFile names a file that holds the token, as the server's admin.token.
func TokenFile(path string) Option {
	return func(s *settings) error {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("the token: %w", err)
		}
		return Token(string(text))(s)
	}
}

// CA names a PEM file with the authorities to trust in place of the system's.
func CA(path string) Option {
	return func(s *settings) error {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("the authorities: %w", err)
		}
		s.roots = x509.NewCertPool()
		if !s.roots.AppendCertsFromPEM(text) {
			return fmt.Errorf("the authorities: no certificate in %s", path)
		}
		return nil
	}
}

// WithoutRetries sends every call once.
func WithoutRetries() Option {
	return func(s *settings) error {
		s.retries = false
		return nil
	}
}

// Dial makes a client for http://host:port, https://host:port (TLS) or
// unix:///path. It connects with the first call.
func Dial(address string, options ...Option) (*Client, error) {
	s := settings{retries: true}
	for _, option := range options {
		if err := option(&s); err != nil {
			return nil, err
		}
	}
	target, secure, err := target(address)
	if err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if secure {
		transport = credentials.NewTLS(&tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12})
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largestAnswer)),
		grpc.WithUnaryInterceptor(explainUnary),
		grpc.WithStreamInterceptor(explainStream),
	}
	if s.token != "" {
		dial = append(dial, grpc.WithPerRPCCredentials(bearer{s.token, secure}))
	}
	if s.retries {
		dial = append(dial, grpc.WithDefaultServiceConfig(retryIdempotent()))
	} else {
		dial = append(dial, grpc.WithDisableRetry())
	}
	connection, err := grpc.NewClient(target, dial...)
	if err != nil {
		return nil, err
	}
	return &Client{
		Assets:     pb.NewAssetServiceClient(connection),
		Builds:     pb.NewBuildServiceClient(connection),
		Containers: pb.NewContainerServiceClient(connection),
		Events:     pb.NewEventServiceClient(connection),
		Gpus:       pb.NewGpuServiceClient(connection),
		Images:     pb.NewImageServiceClient(connection),
		Keeps:      pb.NewKeepServiceClient(connection),
		Logs:       pb.NewLogServiceClient(connection),
		Node:       pb.NewNodeServiceClient(connection),
		Tokens:     pb.NewTokenServiceClient(connection),
		connection: connection,
	}, nil
}

// Close ends the connection and the calls on it.
func (c *Client) Close() error { return c.connection.Close() }

func target(address string) (target string, secure bool, err error) {
	scheme, rest, found := strings.Cut(address, "://")
	switch {
	case !found || rest == "":
		return "", false, fmt.Errorf("the address %q is none; write http://host:port", address)
	case scheme == "http":
		return "dns:///" + strings.TrimSuffix(rest, "/"), false, nil
	case scheme == "https":
		return "dns:///" + strings.TrimSuffix(rest, "/"), true, nil
	case scheme == "unix":
		return "unix://" + rest, false, nil
	}
	return "", false, errors.New("the scheme " + scheme + " is not known; http, https and unix are")
}

// bearer puts the token into the Authorization header.
type bearer struct {
	token  string
	secure bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

// An address of http:// was chosen by the caller, who knows the way there.
func (b bearer) RequireTransportSecurity() bool { return b.secure }
