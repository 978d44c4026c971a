// The real grpc-gateway, with its defaults, in front of a gRPC backend:
// tests/it/bridge/real.rs compares its answers with those of our bridge.
//
//	real-gateway HOST:PORT    prints the address that it serves, ends with its input
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	_ "unsafe" // for the linkname below

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // error details that it can write
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"gateway/golden"
)

// protojson puts blanks into its output by chance, one choice a binary, so
// that nobody compares bytes. We do, so chance is switched off.
//
//go:linkname withoutChance google.golang.org/protobuf/internal/detrand.Disable
func withoutChance()

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: real-gateway HOST:PORT")
	}
	withoutChance()
	mux := runtime.NewServeMux()
	plain := grpc.WithTransportCredentials(insecure.NewCredentials())
	err := golden.RegisterGoldenHandlerFromEndpoint(
		context.Background(), mux, os.Args[1], []grpc.DialOption{plain})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	go func() {
		// Whoever started it holds its input: it cannot outlive the test.
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(http.Serve(listener, mux))
}
