// Runs a container, prints what it writes until it ends, and its exit code.
//
//	go run ./example IMAGE COMMAND...
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	containersvc "container-svc/clients/go"
	pb "container-svc/clients/go/containersvc/v1"

	"google.golang.org/protobuf/types/known/durationpb"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: example IMAGE COMMAND...")
	}
	code, err := run(context.Background(), os.Args[1], os.Args[2:])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("exit code %d\n", code)
}

func run(ctx context.Context, image string, command []string) (int32, error) {
	client, err := containersvc.Dial(os.Getenv("CONTAINER_SVC_ADDRESS"),
		containersvc.Token(os.Getenv("CONTAINER_SVC_TOKEN")))
	if err != nil {
		return 0, err
	}
	defer client.Close()

	name := fmt.Sprintf("example-go-%d", time.Now().UnixNano())
	ran, err := client.Containers.RunContainer(ctx, &pb.RunContainerRequest{
		Image: image, Names: []string{name}, Command: command,
		RestartPolicy: pb.RestartPolicy_RESTART_POLICY_NEVER,
	})
	if err != nil {
		return 0, err
	}
	defer client.Containers.RemoveContainer(ctx, &pb.RemoveContainerRequest{Name: name, Force: true})

	begin := int32(10000)
	tail, err := client.Logs.TailLogs(ctx, &pb.TailLogsRequest{
		ContainerId: ran.GetId(), LastLines: &begin, Heartbeat: durationpb.New(time.Second),
	})
	if err != nil {
		return 0, err
	}
	ended := false
	for {
		message, err := tail.Recv()
		if err != nil {
			return 0, err
		}
		for _, line := range message.GetLogs() {
			fmt.Println(line.GetContent())
		}
		if message.GetType() != pb.TailEventType_TAIL_EVENT_TYPE_HEARTBEAT {
			continue
		}
		// A second of silence. Once more after its end, and all has come.
		answer, err := client.Containers.GetContainer(ctx, &pb.GetContainerRequest{Id: ran.GetId()})
		if err != nil {
			return 0, err
		}
		if ended {
			return answer.GetContainer().GetExitCode(), nil
		}
		ended = answer.GetContainer().GetState() == pb.ContainerState_CONTAINER_STATE_EXITED
	}
}
