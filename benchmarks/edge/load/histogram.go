package main

import "math/bits"

const (
	subBits = 5 // 32 steps an octave: a value is told to within 3 %
	octaves = 40
)

// Histogram counts durations in microseconds, on a scale that is linear within each octave.
type Histogram struct {
	counts [octaves << subBits]int64
	total  int64
	sum    int64
	max    int64
}

// Add counts one duration; a clock that went back counts as none.
func (h *Histogram) Add(us int64) {
	if us < 0 {
		us = 0
	}
	if us > h.max {
		h.max = us
	}
	h.total++
	h.sum += us
	h.counts[bucket(us)]++
}

// Mean returns the middle of all, 0 if there were none.
func (h *Histogram) Mean() float64 {
	if h.total == 0 {
		return 0
	}
	return float64(h.sum) / float64(h.total)
}

// Quantile returns the duration that a share of all did not exceed, 0 if there were none.
func (h *Histogram) Quantile(share float64) int64 {
	rank := int64(share * float64(h.total))
	var passed int64
	for i, count := range h.counts {
		passed += count
		if passed > rank {
			return upper(i)
		}
	}
	return h.max
}

func bucket(us int64) int {
	octave := bits.Len64(uint64(us) >> subBits)
	if octave == 0 {
		return int(us)
	}
	i := octave<<subBits + int(us>>(octave-1))&(1<<subBits-1)
	if i >= octaves<<subBits {
		return octaves<<subBits - 1
	}
	return i
}

func upper(i int) int64 {
	octave := i >> subBits
	if octave == 0 {
		return int64(i)
	}
	return (int64(i&(1<<subBits-1))+1<<subBits+1)<<(octave-1) - 1
}
