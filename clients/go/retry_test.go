package containersvc_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	containersvc "container-svc/clients/go"
	pb "container-svc/clients/go/containersvc/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// absent answers the first calls with UNAVAILABLE.
type absent struct {
	pb.UnimplementedContainerServiceServer
	pb.UnimplementedBuildServiceServer
	runs, builds atomic.Int32
}

func (a *absent) RunContainer(context.Context, *pb.RunContainerRequest) (*pb.RunContainerResponse, error) {
	if a.runs.Add(1) < 3 {
		return nil, status.Error(codes.Unavailable, "not now")
	}
	return &pb.RunContainerResponse{}, nil
}

func (a *absent) BuildImage(context.Context, *pb.BuildImageRequest) (*pb.BuildImageResponse, error) {
	a.builds.Add(1)
	return nil, status.Error(codes.Unavailable, "not now")
}

func TestOnlyIdempotentCallsAreRepeated(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	service, server := &absent{}, grpc.NewServer()
	pb.RegisterContainerServiceServer(server, service)
	pb.RegisterBuildServiceServer(server, service)
	go server.Serve(listener)
	defer server.Stop()

	client := dial(t, "http://"+listener.Addr().String())
	if _, err := client.Containers.RunContainer(t.Context(), &pb.RunContainerRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err = client.Builds.BuildImage(t.Context(), &pb.BuildImageRequest{})
	refusal(t, err, codes.Unavailable)
	if runs, builds := service.runs.Load(), service.builds.Load(); runs != 3 || builds != 1 {
		t.Fatalf("%d runs, %d builds", runs, builds)
	}
	once := dial(t, "http://"+listener.Addr().String(), containersvc.WithoutRetries())
	service.runs.Store(0)
	_, err = once.Containers.RunContainer(t.Context(), &pb.RunContainerRequest{})
	refusal(t, err, codes.Unavailable)
}
