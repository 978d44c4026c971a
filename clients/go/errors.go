package containersvc

import (
	"context"
	"errors"
	"io"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is what a call answered in place of a result. Get it by errors.As.
type Error struct {
	// Reason names the cause for programs, as "NAME_TAKEN"; empty when the
	// answer does not come from container-svc.
	Reason string
	// Metadata holds facts for programs, as the permission that is missing.
	Metadata map[string]string
	// Violations name the wrong fields of the request.
	Violations []Violation

	status *status.Status
}

// Violation is one wrong field.
type Violation struct {
	// Field is its path in JSON names, as "ports[0].internal".
	Field string
	// Description says why it is wrong and what to do.
	Description string
}

// Error says what was wrong and what to do.
func (e *Error) Error() string { return e.status.Message() }

// Code is the gRPC code.
func (e *Error) Code() codes.Code { return e.status.Code() }

// GRPCStatus lets status.FromError and status.Code read it.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Is matches the errors of contexts.
func (e *Error) Is(target error) bool {
	return target == context.DeadlineExceeded && e.Code() == codes.DeadlineExceeded ||
		target == context.Canceled && e.Code() == codes.Canceled
}

func explain(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	answer, ok := status.FromError(err)
	if !ok {
		return err
	}
	explained := &Error{status: answer}
	for _, detail := range answer.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			explained.Reason, explained.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.BadRequest:
			for _, wrong := range detail.GetFieldViolations() {
				explained.Violations = append(explained.Violations,
					Violation{wrong.GetField(), wrong.GetDescription()})
			}
		}
	}
	return explained
}

func explainUnary(
	ctx context.Context, method string, request, reply any,
	connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	return explain(invoke(ctx, method, request, reply, connection, options...))
}

func explainStream(
	ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn,
	method string, open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := open(ctx, description, connection, method, options...)
	if err != nil {
		return nil, explain(err)
	}
	return explained{stream}, nil
}

type explained struct{ grpc.ClientStream }

func (s explained) RecvMsg(message any) error { return explain(s.ClientStream.RecvMsg(message)) }
