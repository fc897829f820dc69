package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const stampDigits = 16 // microseconds since 1970, after "@"

// Answer is what one client was given.
type Answer struct {
	Tokens, Events int
	Latency        []int64 // of each token, microseconds
	FromFlush      []int64
	FirstUs        int64
	First, Last    time.Time
	Failure        string // empty = it was given all, in order, and the end
	rest           string // of the text that is to come
	began          time.Time
	ended          bool
	chunk          chunk
}

// chunk is what both shapes say, as far as it matters here.
type chunk struct {
	Type    string    `json:"type"` // of ours
	Time    time.Time `json:"time"`
	Text    string    `json:"text"`
	Reason  string    `json:"reason"`
	Choices []struct {
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
	} `json:"choices"`
	Error json.RawMessage `json:"error"`
}

// NewAnswer expects a load's text.
func NewAnswer(load Load) *Answer {
	return &Answer{rest: load.Text, Latency: make([]int64, 0, load.Tokens)}
}

// Ask asks, and reads to the end.
func (a *Answer) Ask(client *http.Client, load Load, body, stream string) {
	a.began = time.Now()
	response, err := a.answer(client, load, body, stream)
	if err != nil {
		a.Failure = err.Error()
		return
	}
	defer response.Body.Close()
	lines := bufio.NewReaderSize(response.Body, 16<<10)
	for !a.ended && a.Failure == "" {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			a.Failure = fmt.Sprintf("cut off after %d tokens: %v", a.Tokens, err)
			return
		}
		if data := bytes.TrimSpace(bytes.TrimPrefix(line, []byte("data:"))); len(data) < len(line)-1 && len(data) > 0 {
			a.take(data, time.Now(), load)
		}
	}
	_, _ = io.Copy(io.Discard, response.Body) // the connection is used again
	if a.Failure == "" && (a.rest != "" || a.Tokens != load.Tokens) {
		a.Failure = fmt.Sprintf("ended after %d of %d tokens", a.Tokens, load.Tokens)
	}
}

func (a *Answer) answer(client *http.Client, load Load, body, stream string) (*http.Response, error) {
	path := "/v1/chat/completions"
	if load.Mode == "events" {
		path = "/v1/llm/streams"
	}
	response, err := client.Post(load.Base+path, "application/json", strings.NewReader(body))
	if err != nil || load.Mode == "chat" && response.StatusCode == http.StatusOK {
		return response, err
	}
	said, _ := io.ReadAll(io.LimitReader(response.Body, 2000))
	response.Body.Close()
	if load.Mode == "chat" || response.StatusCode != http.StatusAccepted {
		return nil, fmt.Errorf("answered %d: %.300s", response.StatusCode, said)
	}
	response, err = client.Get(load.Base + "/v1/streams/" + stream + "/events")
	if err == nil && response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("the stream was answered %d", response.StatusCode)
	}
	return response, err
}

func (a *Answer) take(data []byte, now time.Time, load Load) {
	if load.Mode == "chat" && string(data) == "[DONE]" {
		a.ended = true
		return
	}
	if data[0] != '{' { // an id, a comment, an event's name
		return
	}
	a.chunk = chunk{}
	if err := json.Unmarshal(data, &a.chunk); err != nil {
		a.Failure = fmt.Sprintf("what came is not JSON: %.100s", data)
		return
	}
	text := ""
	switch {
	case a.chunk.Error != nil:
		a.Failure = fmt.Sprintf("an error after %d tokens: %.300s", a.Tokens, data)
	case load.Mode == "events" && a.chunk.Type == "end":
		a.ended = true
		if a.chunk.Reason != "completed" {
			a.Failure = fmt.Sprintf("ended %s: %.300s", a.chunk.Reason, data)
		}
	case load.Mode == "events" && a.chunk.Type == "token":
		text = a.chunk.Text
	case load.Mode == "events" && (a.chunk.Type == "gap" || a.chunk.Type == "reset" || a.chunk.Type == "refused"):
		a.Failure = fmt.Sprintf("a %s after %d tokens: %.300s", a.chunk.Type, a.Tokens, data)
	case load.Mode == "chat" && len(a.chunk.Choices) > 0:
		text = a.chunk.Choices[0].Delta.Content
	}
	if text != "" && a.Failure == "" {
		a.text(text, now, load)
	}
}

// text takes the tokens of an event: each has its stamp behind it.
func (a *Answer) text(text string, now time.Time, load Load) {
	nowUs, stampUs := now.UnixMicro(), int64(0)
	if a.Tokens == 0 {
		a.First, a.FirstUs = now, now.Sub(a.began).Microseconds()
	}
	isFirst := a.Tokens == 0
	for text != "" {
		at := strings.IndexByte(text, '@')
		if at < 0 || len(text) < at+1+stampDigits || !strings.HasPrefix(a.rest, text[:at]) {
			a.Failure = fmt.Sprintf("token %d is %.60q, where %.40q was to come", a.Tokens, text, a.rest)
			return
		}
		var err error
		if stampUs, err = strconv.ParseInt(text[at+1:at+1+stampDigits], 10, 64); err != nil {
			a.Failure = fmt.Sprintf("token %d has no time: %.60q", a.Tokens, text)
			return
		}
		a.rest, text = a.rest[at:], text[at+1+stampDigits:]
		a.Tokens++
		a.Latency = append(a.Latency, nowUs-stampUs)
	}
	a.Events++
	a.Last = now
	// When it was flushed, at the earliest: the first content at once, the last ones by the finish, others at the
	// clock's first multiple of the gathering time after the event's time, which is its first piece's.
	if load.Mode == "events" && load.Flush > 0 {
		flushed := stampUs
		gather := load.Flush.Microseconds()
		if due := (a.chunk.Time.UnixMicro()/gather + 1) * gather; !isFirst && a.rest != "" && due > flushed {
			flushed = due
		}
		a.FromFlush = append(a.FromFlush, nowUs-flushed)
	}
}
