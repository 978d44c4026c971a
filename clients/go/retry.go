package containersvc

import (
	"encoding/json"

	pb "container-svc/clients/go/containersvc/v1"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// retryIdempotent is a gRPC service config that repeats calls which the proto
// calls idempotent, when nobody answered them. Of the others, nobody knows
// whether they were done.
func retryIdempotent() string {
	type name struct {
		Service string `json:"service"`
		Method  string `json:"method"`
	}
	var names []name
	each := func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				options, _ := method.Options().(*descriptorpb.MethodOptions)
				if options.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN {
					names = append(names, name{string(service.FullName()), string(method.Name())})
				}
			}
		}
		return true
	}
	of := pb.File_containersvc_v1_access_proto.Package()
	protoregistry.GlobalFiles.RangeFilesByPackage(of, each)
	config, err := json.Marshal(map[string]any{"methodConfig": []any{map[string]any{
		"name": names,
		"retryPolicy": map[string]any{
			"maxAttempts": 4, "initialBackoff": "0.2s", "maxBackoff": "2s", "backoffMultiplier": 2,
			"retryableStatusCodes": []string{"UNAVAILABLE"},
		},
	}}})
	if err != nil {
		panic(err) // texts and numbers are always JSON
	}
	return string(config)
}
