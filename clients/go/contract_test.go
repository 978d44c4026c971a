package containersvc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	containersvc "container-svc/clients/go"
	pb "container-svc/clients/go/containersvc/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The stage is set by tests/it/clients/contract.rs: a live server on a real
// engine, a registry, and tokens.
func stage(name string) string {
	value := os.Getenv("CONTRACT_" + name)
	if value == "" {
		panic("CONTRACT_" + name + " is not set; run cargo test --test it clients::contract::")
	}
	return value
}

func dial(t *testing.T, address string, options ...containersvc.Option) *containersvc.Client {
	t.Helper()
	client, err := containersvc.Dial(address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func open(t *testing.T) (context.Context, *containersvc.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx, dial(t, stage("ADDRESS"), containersvc.Token(stage("TOKEN")))
}

func request(name string, script string) *pb.RunContainerRequest {
	return &pb.RunContainerRequest{
		Image: stage("IMAGE"), Names: []string{stage("NAME") + name},
		Command: []string{"sh", "-c", script},
	}
}

func run(t *testing.T, ctx context.Context, client *containersvc.Client, r *pb.RunContainerRequest) *pb.RunContainerResponse {
	t.Helper()
	answer, err := client.Containers.RunContainer(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func refusal(t *testing.T, err error, code codes.Code) *containersvc.Error {
	t.Helper()
	var refused *containersvc.Error
	if !errors.As(err, &refused) || refused.Code() != code || status.Code(err) != code {
		t.Fatalf("not %v: %v", code, err)
	}
	return refused
}

func TestARunIsCreatedThenUnchangedThenReplacedWithItsReasons(t *testing.T) {
	ctx, client := open(t)
	r := request("run", "sleep 1000")
	if a := run(t, ctx, client, r); a.GetAction() != pb.RunAction_RUN_ACTION_CREATED || !a.GetStarted() {
		t.Fatal(a)
	}
	if a := run(t, ctx, client, r); a.GetAction() != pb.RunAction_RUN_ACTION_UNCHANGED || a.GetStarted() {
		t.Fatal(a)
	}
	r.Envs = []*pb.EnvVar{{Key: "A", Value: "b"}}
	a := run(t, ctx, client, r)
	if a.GetAction() != pb.RunAction_RUN_ACTION_REPLACED || !slices.Equal(a.GetDifferingFields(), []string{"envs"}) {
		t.Fatal(a)
	}
}

func TestAListComesInPages(t *testing.T) {
	ctx, client := open(t)
	made := map[string]bool{}
	for _, name := range []string{"page-1", "page-2", "page-3"} {
		r := request(name, "sleep 1000")
		r.Labels = []*pb.Label{{Key: "contract", Value: stage("NAME")}}
		made[run(t, ctx, client, r).GetId()] = true
	}
	list := &pb.ListContainersRequest{Label: "contract=" + stage("NAME"), PageSize: 2}
	pages := 0
	for {
		page, err := client.Containers.ListContainers(ctx, list)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, container := range page.GetContainers() {
			if !made[container.GetId()] {
				t.Fatalf("twice or not ours: %v", container.GetNames())
			}
			delete(made, container.GetId())
		}
		if list.PageToken = page.GetNextPageToken(); list.PageToken == "" {
			break
		}
	}
	if pages != 2 || len(made) != 0 {
		t.Fatalf("%d pages, missing %v", pages, made)
	}
}

func TestATailFollowsUntilItIsCancelled(t *testing.T) {
	ctx, client := open(t)
	id := run(t, ctx, client, request("tail", "n=0; while n=$((n+1)); do echo $n; sleep 0.1; done")).GetId()
	ctx, cancel := context.WithCancel(ctx)
	begin := int32(10000)
	tail, err := client.Logs.TailLogs(ctx, &pb.TailLogsRequest{ContainerId: id, LastLines: &begin})
	if err != nil {
		t.Fatal(err)
	}
	next := 1
	for next <= 5 {
		message, err := tail.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range message.GetLogs() {
			if line.GetContent() != fmt.Sprint(next) {
				t.Fatalf("line %q in place of %d", line.GetContent(), next)
			}
			next++
		}
	}
	cancel()
	for err == nil {
		_, err = tail.Recv()
	}
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	refusal(t, err, codes.Canceled)
}

func TestABuildTellsTheStepThatFailed(t *testing.T) {
	ctx, client := open(t)
	build, err := client.Builds.BuildImageStream(ctx, &pb.BuildImageStreamRequest{
		Name: stage("NAME") + "build", ContextPath: stage("BUILD"),
	})
	if err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	var failed *pb.BuildFailed
	for {
		event, err := build.Recv()
		if err != nil {
			refused := refusal(t, err, codes.FailedPrecondition)
			if refused.Metadata["exitCode"] != "7" || refused.Reason == "" {
				t.Fatal(refused.Reason, refused.Metadata)
			}
			break
		}
		output.Write(event.GetLog().GetData())
		if event.GetFailed() != nil {
			failed = event.GetFailed()
		}
	}
	if failed.GetExitCode() != 7 || failed.GetStep().GetNumber() != 3 || !strings.Contains(output.String(), "about to fail") {
		t.Fatal(failed, output.String())
	}
}

func TestAPullTellsItsProgress(t *testing.T) {
	ctx, client := open(t)
	pull, err := client.Images.PullImage(ctx, &pb.PullImageRequest{Name: stage("PULL")})
	if err != nil {
		t.Fatal(err)
	}
	var last *pb.PullImageResponse
	for {
		message, err := pull.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = message
	}
	if !last.GetDone() || !strings.HasPrefix(last.GetImageId(), "sha256:") || last.GetProgress().GetLayersDone() == 0 {
		t.Fatal(last)
	}
}

func TestWithoutATokenNobodyIsServed(t *testing.T) {
	ctx, _ := open(t)
	for want, options := range map[string][]containersvc.Option{
		"NO_TOKEN": nil, "BAD_TOKEN": {containersvc.Token("wrong")},
	} {
		_, err := dial(t, stage("ADDRESS"), options...).Node.GetHost(ctx, &pb.GetHostRequest{})
		if refused := refusal(t, err, codes.Unauthenticated); refused.Reason != want {
			t.Fatal(refused.Reason)
		}
	}
}

func TestWhatATokenLacksIsNamed(t *testing.T) {
	ctx, _ := open(t)
	viewer := dial(t, stage("ADDRESS"), containersvc.Token(stage("VIEWER")))
	_, err := viewer.Containers.RunContainer(ctx, request("denied", "true"))
	refused := refusal(t, err, codes.PermissionDenied)
	if refused.Reason != "PERMISSION_MISSING" || refused.Metadata["permission"] != "container-svc:container:run" {
		t.Fatal(refused.Reason, refused.Metadata)
	}
}

func TestADeadlineEndsACall(t *testing.T) {
	ctx, client := open(t)
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	watch, err := client.Containers.WatchContainers(ctx, &pb.WatchContainersRequest{})
	for err == nil {
		_, err = watch.Recv()
	}
	refusal(t, err, codes.DeadlineExceeded)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestWrongFieldsAreNamed(t *testing.T) {
	ctx, client := open(t)
	_, err := client.Containers.RunContainer(ctx, &pb.RunContainerRequest{
		Ports: []*pb.PortMapping{{Internal: 70000}},
	})
	var fields []string
	refused := refusal(t, err, codes.InvalidArgument)
	for _, wrong := range refused.Violations {
		fields = append(fields, wrong.Field)
	}
	if !slices.Contains(fields, "image") || !slices.Contains(fields, "ports[0].internal") {
		t.Fatal(fields)
	}
}

func TestTLSIsSpokenWithTheAuthoritiesThatAreTrusted(t *testing.T) {
	ctx, _ := open(t)
	token := containersvc.Token(stage("TOKEN"))
	trusted := dial(t, stage("TLS"), token, containersvc.CA(stage("CA")))
	if host, err := trusted.Node.GetHost(ctx, &pb.GetHostRequest{}); err != nil || host.GetHost() == "" {
		t.Fatal(host, err)
	}
	_, err := dial(t, stage("TLS"), token).Node.GetHost(ctx, &pb.GetHostRequest{})
	refusal(t, err, codes.Unavailable)
}

func TestTheExampleTellsLinesAndExitCode(t *testing.T) {
	example := exec.Command("go", "run", "./example", stage("IMAGE"), "sh", "-c", "echo one; sleep 1; echo two; exit 7")
	example.Env = append(os.Environ(),
		"CONTAINER_SVC_ADDRESS="+stage("ADDRESS"), "CONTAINER_SVC_TOKEN="+stage("TOKEN"))
	out, err := example.CombinedOutput()
	if err != nil || string(out) != "one\ntwo\nexit code 7\n" {
		t.Fatal(err, string(out))
	}
}

// A module of its own takes the client as the README says, and its lines work.
func TestTheLinesOfTheReadmeWorkInAnotherModule(t *testing.T) {
	_, lines, _ := strings.Cut(string(must(os.ReadFile("README.md"))), "```go\n")
	lines, _, _ = strings.Cut(lines, "```")
	if strings.Count(lines, "\n") > 10 {
		t.Fatal("more than ten lines")
	}
	folder, here := t.TempDir(), must(os.Getwd())
	token := filepath.Join(folder, "admin.token")
	for _, swap := range [][2]string{
		{"http://127.0.0.1:11337", stage("ADDRESS")}, {`"admin.token"`, fmt.Sprintf("%q", token)},
		{"nginx:1.27", stage("IMAGE")}, {`"web"`, fmt.Sprintf("%q", stage("NAME")+"readme")},
	} {
		if !strings.Contains(lines, swap[0]) {
			t.Fatal("the README has no ", swap[0])
		}
		lines = strings.ReplaceAll(lines, swap[0], swap[1])
	}
	imports := "import (\n\t\"context\"\n\t\"fmt\"\n\t\"log\"\n\n\tcontainersvc \"container-svc/clients/go\"\n" +
		"\tpb \"container-svc/clients/go/containersvc/v1\"\n)\n"
	mod := "module user\n\ngo 1.26.0\n\nrequire container-svc/clients/go v0.0.0\n\n" +
		"replace container-svc/clients/go => " + here + "\n"
	for name, text := range map[string]string{
		"admin.token": stage("TOKEN"),
		"go.mod":      mod,
		"go.sum":      string(must(os.ReadFile("go.sum"))),
		"main.go":     "package main\n\n" + imports + "\nfunc main() {\n\tctx := context.Background()\n" + lines + "}\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	user := exec.Command("go", "run", "-mod=mod", ".")
	user.Dir = folder
	out, err := user.CombinedOutput()
	told := string(out)
	if err != nil || !strings.Contains(told, "RUN_ACTION_CREATED") || !strings.HasSuffix(told, "<nil>\n") {
		t.Fatal(err, told)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
