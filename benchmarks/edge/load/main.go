// Clients of Server-Sent Events by the thousand: opens them, counts and checks what each is given.
//
// It is told what to do by lines on its input and answers each with a line of JSON, what came so far: "snapshot"
// does no more, "reset" counts from zero after it, "stall N" has the first N clients read no more, "quit" (or the
// end of input) ends it.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Snapshot is what all clients were given since the last reset.
type Snapshot struct {
	Seconds       float64 `json:"seconds"`
	Opened        int     `json:"opened"`
	Ready         int     `json:"ready"`
	Failed        int     `json:"failed"`
	Cause         string  `json:"cause"`
	Lost          int     `json:"lost"`
	Stalled       int     `json:"stalled"`
	Events        int64   `json:"events"`
	Gaps          int64   `json:"gaps"`
	Doubles       int64   `json:"doubles"`
	Declared      int64   `json:"declared"`
	Missed        int64   `json:"missed"`
	Ended         int64   `json:"ended"`
	SentAway      int64   `json:"sent_away"`
	Refused       int64   `json:"refused"`
	Other         int64   `json:"other"`
	Bytes         int64   `json:"bytes"`
	Reads         int64   `json:"reads"`
	MeanMs        float64 `json:"mean_ms"`
	P50Ms         float64 `json:"p50_ms"`
	P99Ms         float64 `json:"p99_ms"`
	MaxMs         float64 `json:"max_ms"`
	NextMin       int64   `json:"next_min"`
	NextMax       int64   `json:"next_max"`
	EventsEachMin int64   `json:"events_each_min"`
	EventsEachMax int64   `json:"events_each_max"`
	CPUSeconds    float64 `json:"cpu_s"`
}

func main() {
	plan := Plan{}
	var resume string
	flag.StringVar(&plan.Host, "host", "127.0.0.1", "IPv4 address of the server")
	flag.IntVar(&plan.Port, "port", 8600, "its port")
	flag.StringVar(&plan.Path, "path", "/", "path and query; {stream} is a stream's number")
	flag.IntVar(&plan.Streams, "streams", 1, "streams that clients are spread over, in turn")
	flag.IntVar(&plan.Connections, "connections", 1, "clients, 1 to 20000")
	flag.IntVar(&plan.PerSecond, "per-second", 0, "connects a second; 0 = as fast as they are answered")
	flag.IntVar(&plan.Pending, "pending", 200, "connects that may be unanswered at a time")
	flag.IntVar(&plan.ReceiveBuffer, "receive-buffer", 0, "bytes of a socket's buffer; 0 = the kernel's own")
	flag.Int64Var(&plan.From, "from", -1, "seq that must come first; -1 = any")
	flag.StringVar(&resume, "resume", "", "file of lines cursor,seq: Last-Event-ID and what must come first")
	flag.Parse()
	if err := run(plan, resume); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(plan Plan, resume string) error {
	if plan.Connections < 1 || plan.Connections > 20_000 || plan.Streams < 1 || plan.Pending < 1 {
		return fmt.Errorf("-connections %d -streams %d -pending %d: out of bounds", plan.Connections, plan.Streams, plan.Pending)
	}
	if resume != "" {
		places, err := placesOf(resume)
		if err != nil {
			return err
		}
		plan.Places = places
	}
	clients, err := NewClients(plan)
	if err != nil {
		return err
	}
	defer clients.Close()
	commands := make(chan string)
	go func() {
		defer close(commands)
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			commands <- lines.Text()
		}
	}()
	runtime.LockOSThread()
	answers := json.NewEncoder(os.Stdout)
	for {
		if err := clients.Turn(); err != nil {
			return err
		}
		select {
		case line, more := <-commands:
			if !more || line == "quit" {
				return nil
			}
			if err := obey(clients, line); err != nil {
				return err
			}
			if err := answers.Encode(clients.Snapshot()); err != nil {
				return err
			}
			if line == "reset" {
				clients.Reset()
			}
		default:
		}
	}
}

func obey(clients *Clients, line string) error {
	name, argument, _ := strings.Cut(line, " ")
	switch name {
	case "snapshot", "reset":
		return nil
	case "stall":
		count, err := strconv.Atoi(argument)
		if err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		return clients.Stall(count)
	}
	return fmt.Errorf("%q is no command; there are snapshot, reset, stall N, quit", line)
}

func placesOf(path string) ([]Place, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var places []Place
	for _, line := range strings.Fields(string(text)) {
		cursor, seq, _ := strings.Cut(line, ",")
		next, err := strconv.ParseInt(seq, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is no `cursor,seq`", path, line)
		}
		places = append(places, Place{cursor, next})
	}
	return places, nil
}

// Snapshot gives what came since the last reset.
func (c *Clients) Snapshot() Snapshot {
	now := time.Now()
	t := &c.tally
	s := Snapshot{
		Seconds: now.Sub(c.since).Seconds(), Opened: c.unopened, Ready: c.Ready, Failed: c.Failed,
		Cause: c.firstFail, Lost: c.Lost, Stalled: c.Stalled, Events: t.Events, Gaps: t.Gaps,
		Doubles: t.Doubles, Declared: t.Declared, Missed: t.Missed, Ended: t.Ended, SentAway: t.SentAway,
		Refused: t.Refused, Other: t.Other, Bytes: t.Bytes, Reads: t.Reads,
		MeanMs: t.Latency.Mean() / 1000, P50Ms: float64(t.Latency.Quantile(0.5)) / 1000, P99Ms: float64(t.Latency.Quantile(0.99)) / 1000,
		MaxMs: float64(t.Latency.max) / 1000, CPUSeconds: cpuSeconds(),
	}
	first := true
	for i := range c.all {
		one := &c.all[i]
		if !one.open || one.stalled {
			continue
		}
		if first || one.Next < s.NextMin {
			s.NextMin = one.Next
		}
		if first || one.Next > s.NextMax {
			s.NextMax = one.Next
		}
		if first || one.Events < s.EventsEachMin {
			s.EventsEachMin = one.Events
		}
		if first || one.Events > s.EventsEachMax {
			s.EventsEachMax = one.Events
		}
		first = false
	}
	return s
}

// Reset counts from zero; who is connected, and what must come next, stays.
func (c *Clients) Reset() {
	c.tally, c.since = Tally{}, time.Now()
}
