// A model service, as the one of 1Backend calls: it serves a model from a GPU
// image, finds it by a hash of its own, and tells where it is.
//
//	model-service IMAGE MODEL_URL HASH
package main

import (
	"fmt"
	"log"
	"os"
	"time"

	"neighbours/strict"
)

// The port on which the image serves its model.
const servePort = 8001

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: model-service IMAGE MODEL_URL HASH")
	}
	service := strict.Service{
		Address: os.Getenv("CONTAINER_SVC_ADDRESS"), Token: os.Getenv("CONTAINER_SVC_TOKEN"),
	}
	if err := serve(service, os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func serve(service strict.Service, image, model, hash string) error {
	running, err := service.IsRunning("hash", hash)
	if err != nil {
		return err
	}
	fmt.Printf("running before: %v\n", running)

	started, ports, err := service.Run(strict.RunRequest{
		Image:        image,
		Hash:         hash,
		Ports:        []strict.PortMapping{{Internal: servePort}},
		Assets:       []strict.Asset{{EnvVarKey: "MODEL", URL: model}},
		Envs:         []strict.EnvVar{{Key: "NVIDIA_VISIBLE_DEVICES", Value: "all"}, {Key: "EXTRA", Value: ""}},
		Capabilities: strict.Capabilities{GpuEnabled: true},
	})
	if err != nil {
		return err
	}
	fmt.Printf("started: %v\n", started)
	if len(ports) != 1 || ports[0].Internal != servePort || ports[0].Host == 0 {
		return fmt.Errorf("the ports are %v", ports)
	}
	if err := service.AwaitRunning("hash", hash, time.Minute); err != nil {
		return err
	}
	summary, err := service.Summary(hash, 10)
	if err != nil {
		return err
	}
	host, err := service.Host()
	if err != nil {
		return err
	}
	fmt.Printf("served at http://%s:%d\n%s", host, ports[0].Host, summary.Logs)
	return nil
}
