// Clients that ask a language model and read its answer as it comes: counts and checks every token.
//
// It is given a load by its flags, and writes what became of it as one object of JSON. "chat" is OpenAI's shape,
// where the answer is the response's body; "events" asks by POST /v1/llm/streams and reads the stream by
// GET /v1/streams/{id}/events.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Load is what there is to ask.
type Load struct {
	Base, Mode, Name string
	Body             string // of each request; {n} is the client's number, {name} this load's
	Text             string // that each answer has, stamps left out
	Tokens           int    // of it
	Clients          int
	Spread           time.Duration // over which they begin
	Flush            time.Duration // for which a server gathers tokens
	Timeout          time.Duration
}

// Result is what became of all clients.
type Result struct {
	Clients   int      `json:"clients"`
	Whole     int      `json:"whole"` // given every token, in order, and the end
	Cause     string   `json:"cause"` // of the first that was not
	Tokens    int      `json:"tokens"`
	Events    int      `json:"events"`     // that tokens came in
	Latency   Summary  `json:"latency"`    // from the provider's write to the client's read, of each token
	FromFlush *Summary `json:"from_flush"` // of each event that brought tokens; null where it does not tell when
	First     Summary  `json:"first"`      // from the request to the first token
	LongestS  float64  `json:"longest_s"`  // from the first token to the last, of the slowest client
	Seconds   float64  `json:"seconds"`    // of all
	CPUS      float64  `json:"cpu_s"`      // of this program
}

func main() {
	load := Load{}
	var bodyFile, textFile string
	var spreadMs, flushMs, timeoutS int
	flag.StringVar(&load.Base, "base", "", "http://HOST:PORT of the server")
	flag.StringVar(&load.Mode, "mode", "chat", "chat or events")
	flag.StringVar(&load.Name, "name", "load", "of this load; {name} in the body")
	flag.StringVar(&bodyFile, "body", "", "file of a request's body")
	flag.StringVar(&textFile, "text", "", "file of the text that is expected")
	flag.IntVar(&load.Tokens, "tokens", 0, "tokens of the text")
	flag.IntVar(&load.Clients, "clients", 1, "clients, each asks once")
	flag.IntVar(&spreadMs, "spread-ms", 0, "all of them begin within this")
	flag.IntVar(&flushMs, "flush-ms", 0, "for which the server gathers tokens into an event")
	flag.IntVar(&timeoutS, "timeout-s", 60, "for all of it")
	flag.Parse()
	body, err := os.ReadFile(bodyFile)
	if err == nil {
		var text []byte
		text, err = os.ReadFile(textFile)
		load.Body, load.Text = string(body), string(text)
	}
	if err != nil || load.Base == "" || (load.Mode != "chat" && load.Mode != "events") || load.Clients < 1 {
		fmt.Fprintln(os.Stderr, "error: -base, -mode, -body, -text, -tokens and -clients say what there is to do:", err)
		os.Exit(1)
	}
	load.Spread = time.Duration(spreadMs) * time.Millisecond
	load.Flush = time.Duration(flushMs) * time.Millisecond
	load.Timeout = time.Duration(timeoutS) * time.Second
	if err := json.NewEncoder(os.Stdout).Encode(run(load)); err != nil {
		os.Exit(1)
	}
}

func run(load Load) Result {
	client := &http.Client{
		Timeout: load.Timeout,
		Transport: &http.Transport{
			DisableCompression: true, MaxIdleConnsPerHost: load.Clients, ReadBufferSize: 16 << 10,
		},
	}
	answers := make([]*Answer, load.Clients)
	var waiting sync.WaitGroup
	began := time.Now()
	for i := range answers {
		answers[i] = NewAnswer(load)
		waiting.Add(1)
		go func(i int) {
			defer waiting.Done()
			time.Sleep(load.Spread * time.Duration(i) / time.Duration(load.Clients))
			body := strings.NewReplacer("{n}", fmt.Sprint(i), "{name}", load.Name).Replace(load.Body)
			answers[i].Ask(client, load, body, fmt.Sprintf("%s-%d", load.Name, i))
		}(i)
	}
	waiting.Wait()
	return result(load, answers, time.Since(began))
}

func result(load Load, answers []*Answer, took time.Duration) Result {
	found := Result{Clients: load.Clients, Seconds: took.Seconds(), CPUS: cpuSeconds()}
	var latency, first, flush []int64
	for _, each := range answers {
		found.Tokens += each.Tokens
		found.Events += each.Events
		latency = append(latency, each.Latency...)
		flush = append(flush, each.FromFlush...)
		if each.Tokens > 0 {
			first = append(first, each.FirstUs)
		}
		if longest := each.Last.Sub(each.First).Seconds(); longest > found.LongestS {
			found.LongestS = longest
		}
		if each.Failure == "" {
			found.Whole++
		} else if found.Cause == "" {
			found.Cause = each.Failure
		}
	}
	found.Latency, found.First = summary(latency), summary(first)
	if load.Mode == "events" {
		of := summary(flush)
		found.FromFlush = &of
	}
	return found
}

// cpuSeconds is what this program has taken of the processors: it shares them with what is measured.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(usage.Utime) + seconds(usage.Stime)
}
