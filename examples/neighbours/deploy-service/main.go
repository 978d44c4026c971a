// A deploy service, as the one of 1Backend calls: it builds an image from a folder
// and runs it under a name, without a hash; and stops it by that name.
//
//	deploy-service deploy NAME IMAGE FOLDER
//	deploy-service stop NAME
package main

import (
	"fmt"
	"log"
	"os"
	"time"

	"neighbours/strict"
)

func main() {
	service := strict.Service{
		Address: os.Getenv("CONTAINER_SVC_ADDRESS"), Token: os.Getenv("CONTAINER_SVC_TOKEN"),
	}
	var err error
	switch words := os.Args[1:]; {
	case len(words) == 4 && words[0] == "deploy":
		err = deploy(service, words[1], words[2], words[3])
	case len(words) == 2 && words[0] == "stop":
		err = stop(service, words[1])
	default:
		log.Fatal("usage: deploy-service deploy NAME IMAGE FOLDER | stop NAME")
	}
	if err != nil {
		log.Fatal(err)
	}
}

func deploy(service strict.Service, name, image, folder string) error {
	if err := service.Build(strict.BuildRequest{Name: image, ContextPath: folder}); err != nil {
		return err
	}
	started, ports, err := service.Run(strict.RunRequest{
		Image: image,
		Names: []string{name},
		Ports: []strict.PortMapping{{Internal: 80}},
		Envs:  []strict.EnvVar{{Key: "EMPTY", Value: ""}},
	})
	if err != nil {
		return err
	}
	if err := service.AwaitRunning("name", name, time.Minute); err != nil {
		return err
	}
	fmt.Printf("%s runs, started: %v, ports: %v\n", name, started, len(ports))
	return nil
}

func stop(service strict.Service, name string) error {
	if err := service.Stop(name); err != nil {
		return err
	}
	running, err := service.IsRunning("name", name)
	fmt.Printf("%s runs: %v\n", name, running)
	return err
}
