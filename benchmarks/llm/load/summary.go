package main

import "sort"

// Summary is of durations, milliseconds.
type Summary struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

// summary takes microseconds, all of them: no buckets, so nothing is rounded.
func summary(us []int64) Summary {
	if len(us) == 0 {
		return Summary{}
	}
	sort.Slice(us, func(a, b int) bool { return us[a] < us[b] })
	at := func(share float64) float64 { return float64(us[int(share*float64(len(us)-1))]) / 1000 }
	return Summary{len(us), at(0.5), at(0.99), at(1)}
}
