// Package strict calls the documented paths as the published Go client does: a
// field that an answer should not have, or lacks, is an error.
package strict

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"
)

// Service is a container-svc and the token for it.
type Service struct{ Address, Token string }

// The items and answers. A field with omitempty may be absent; no other may be
// absent or unknown.
type (
	PortMapping struct {
		Internal int32 `json:"internal"`
		Host     int32 `json:"host"`
	}
	EnvVar struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	Asset struct {
		EnvVarKey string `json:"envVarKey"`
		URL       string `json:"url"`
	}
	Capabilities struct {
		GpuEnabled bool `json:"gpuEnabled,omitempty"`
	}
	// RunRequest has the fields that the two neighbours send.
	RunRequest struct {
		Image        string        `json:"image"`
		Names        []string      `json:"names,omitempty"`
		Hash         string        `json:"hash,omitempty"`
		Ports        []PortMapping `json:"ports,omitempty"`
		Envs         []EnvVar      `json:"envs,omitempty"`
		Assets       []Asset       `json:"assets,omitempty"`
		Capabilities Capabilities  `json:"capabilities"`
	}
	BuildRequest struct {
		Name           string `json:"name"`
		ContextPath    string `json:"contextPath"`
		DockerfilePath string `json:"dockerfilePath,omitempty"`
	}
	IsRunning struct {
		IsRunning bool `json:"isRunning"`
	}
	Summary struct {
		Status  string `json:"status"`
		Logs    string `json:"logs"`
		Summary string `json:"summary"`
	}
	Host struct {
		Host string `json:"host"`
	}
)

// Run makes sure that a container runs; the real ports. Its answer may say more.
func (s Service) Run(request RunRequest) (started bool, ports []PortMapping, err error) {
	var answer struct {
		Started bool            `json:"started"`
		Ports   json.RawMessage `json:"ports"`
	}
	if err := s.call("PUT", "/container", request, &answer, false); err != nil {
		return false, nil, err
	}
	return answer.Started, ports, decode(answer.Ports, &ports, true)
}

// Build builds an image and answers when it is there.
func (s Service) Build(request BuildRequest) error {
	return s.call("PUT", "/image", request, &struct{}{}, false)
}

// Stop stops the container with this name.
func (s Service) Stop(name string) error {
	return s.call("PUT", "/container/stop", map[string]string{"name": name}, &struct{}{}, true)
}

// IsRunning asks by "hash" or "name".
func (s Service) IsRunning(key, value string) (bool, error) {
	var answer IsRunning
	err := s.call("GET", "/container/is-running?"+query(key, value), nil, &answer, true)
	return answer.IsRunning, err
}

// AwaitRunning asks until it runs.
func (s Service) AwaitRunning(key, value string, limit time.Duration) error {
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		running, err := s.IsRunning(key, value)
		if err != nil || running {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("the container with the %s %s does not run", key, value)
		}
	}
}

// Summary tells how the container with this hash does, with its last lines.
func (s Service) Summary(hash string, lines int) (answer Summary, err error) {
	path := fmt.Sprintf("/container/summary?%s&lines=%d", query("hash", hash), lines)
	return answer, s.call("GET", path, nil, &answer, true)
}

// Host is where containers reach each other.
func (s Service) Host() (string, error) {
	var answer Host
	err := s.call("GET", "/host", nil, &answer, true)
	return answer.Host, err
}

func query(key, value string) string { return key + "=" + url.QueryEscape(value) }

func (s Service) call(method, path string, body, answer any, strictly bool) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequest(method, s.Address+"/container-svc"+path, content)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+s.Token)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if kind := response.Header.Get("Content-Type"); kind != "application/json" {
		return fmt.Errorf("%s %s: the content type is %q", method, path, kind)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, text)
	}
	if err := decode(text, answer, strictly); err != nil {
		return fmt.Errorf("%s %s: %w in %s", method, path, err, text)
	}
	return nil
}

// decode refuses unknown fields, and needs all that do not say omitempty.
func decode(text []byte, answer any, strictly bool) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if strictly {
		decoder.DisallowUnknownFields()
	}
	if err := decoder.Decode(answer); err != nil {
		return err
	}
	return needed(text, reflect.TypeOf(answer).Elem())
}

func needed(text []byte, kind reflect.Type) error {
	if kind.Kind() == reflect.Slice {
		var items []json.RawMessage
		if err := json.Unmarshal(text, &items); err != nil {
			return err
		}
		for _, item := range items {
			if err := needed(item, kind.Elem()); err != nil {
				return err
			}
		}
	}
	if kind.Kind() != reflect.Struct {
		return nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return err
	}
	for i := range kind.NumField() {
		name, optional := strings.CutSuffix(kind.Field(i).Tag.Get("json"), ",omitempty")
		if value, there := fields[name]; !optional && (!there || string(value) == "null") {
			return fmt.Errorf("the field %s is missing", name)
		}
	}
	return nil
}
