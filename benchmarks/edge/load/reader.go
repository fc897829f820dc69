package main

import (
	"bytes"
	"strconv"
)

const (
	inHead = iota
	inText
	inChunkSize
	inChunk
	inChunkEnd
)

const headBytesMax = 16 << 10

var (
	seqMark   = []byte(`"seq":`)
	fromMark  = []byte(`"from_seq":`)
	countMark = []byte(`"count":`)
	typeMark  = []byte(`{"type":"`)
)

// Tally is what all connections were given since the last snapshot.
type Tally struct {
	Latency Histogram
	// Events are those with a seq of their own; a gap that the server declares is none, and says how many it
	// stands for: Missed.
	Events, Gaps, Doubles, Declared, Missed, Ended, SentAway, Refused, Other int64
	Bytes, Reads                                                             int64
}

// Reader takes the bytes of one answer apart: HTTP/1.1 with or without chunks, and events in it.
//
// Each event's data is JSON with a "seq" and, in some string, "@" and the nanoseconds since 1970 when it was
// published. It holds no buffer of its own but the beginning of a line whose end has not come yet.
type Reader struct {
	state   uint8
	chunked bool
	Status  int
	left    int // of the chunk
	rest    []byte
	data    []byte // of the event that is being read; it points into what is being fed
	// Next is the seq that must come; -1 = any.
	Next   int64
	Events int64
}

// Feed takes what was read at a time (ns); it returns false if it is no HTTP.
func (r *Reader) Feed(data []byte, nowNs int64, tally *Tally, scratch *[]byte) bool {
	for len(data) > 0 {
		switch r.state {
		case inHead:
			r.rest = append(r.rest, data...)
			end := bytes.Index(r.rest, []byte("\r\n\r\n"))
			if end < 0 {
				return len(r.rest) <= headBytesMax
			}
			head := r.rest[:end]
			data = append([]byte(nil), r.rest[end+4:]...)
			if len(head) < 12 || !bytes.HasPrefix(head, []byte("HTTP/1.")) {
				return false
			}
			r.Status, _ = strconv.Atoi(string(head[9:12]))
			r.chunked = bytes.Contains(bytes.ToLower(head), []byte("transfer-encoding: chunked"))
			r.rest = nil
			r.state = inText
			if r.chunked {
				r.state = inChunkSize
			}
		case inText:
			r.text(data, nowNs, tally, scratch)
			return true
		case inChunkSize:
			c := data[0]
			data = data[1:]
			switch {
			case c == '\n':
				r.state = inChunk
				if r.left == 0 { // the last one: what follows is the end of the answer
					r.state = inChunkEnd
				}
			case c == '\r':
			default:
				digit, err := strconv.ParseUint(string(c), 16, 8)
				if err != nil {
					return false
				}
				r.left = r.left<<4 | int(digit)
			}
		case inChunk:
			n := r.left
			if n > len(data) {
				n = len(data)
			}
			r.text(data[:n], nowNs, tally, scratch)
			data = data[n:]
			if r.left -= n; r.left == 0 {
				r.state = inChunkEnd
			}
		case inChunkEnd:
			if data[0] == '\n' {
				r.state = inChunkSize
			}
			data = data[1:]
		}
	}
	return true
}

// text takes a part of the stream of events, which may end anywhere.
func (r *Reader) text(text []byte, nowNs int64, tally *Tally, scratch *[]byte) {
	if len(r.rest) > 0 {
		*scratch = append(append((*scratch)[:0], r.rest...), text...)
		text = *scratch
		r.rest = r.rest[:0]
	}
	begun := 0 // where the event begins that is not over yet
	for at := 0; at < len(text); {
		end := bytes.IndexByte(text[at:], '\n')
		if end < 0 {
			break
		}
		line := text[at : at+end]
		at += end + 1
		if n := len(line); n > 0 && line[n-1] == '\r' {
			line = line[:n-1]
		}
		switch {
		case len(line) == 0:
			if len(r.data) > 0 {
				r.event(nowNs, tally)
			}
			r.data, begun = nil, at
		case line[0] == 'd' && bytes.HasPrefix(line, []byte("data:")):
			r.data = line[5:]
		}
	}
	r.data = nil
	if begun < len(text) {
		r.rest = append(r.rest, text[begun:]...)
	} else if cap(r.rest) > 0 {
		r.rest = nil
	}
}

func (r *Reader) event(nowNs int64, tally *Tally) {
	data := bytes.TrimLeft(r.data, " ")
	if bytes.HasPrefix(data, typeMark) {
		name := data[len(typeMark):]
		switch {
		case bytes.HasPrefix(name, []byte(`gap"`)):
			r.gap(data, tally)
			return
		case bytes.HasPrefix(name, []byte(`reconnect"`)):
			tally.SentAway++
			return
		case bytes.HasPrefix(name, []byte(`refused"`)):
			tally.Refused++
			return
		case bytes.HasPrefix(name, []byte(`end"`)):
			tally.Ended++
		}
	}
	seq, ok := number(data, seqMark)
	if !ok {
		tally.Other++
		return
	}
	switch {
	case r.Next >= 0 && seq > r.Next:
		tally.Gaps++
	case seq < r.Next:
		tally.Doubles++
		return
	}
	r.Next = seq + 1
	r.Events++
	tally.Events++
	if at := bytes.IndexByte(data, '@'); at >= 0 {
		if published, ok := number(data[at:], []byte("@")); ok {
			tally.Latency.Add((nowNs - published) / 1000)
		}
	}
}

// gap takes one that the server declares; it must begin where the client is.
func (r *Reader) gap(data []byte, tally *Tally) {
	tally.Declared++
	if count, ok := number(data, countMark); ok && count > 0 {
		tally.Missed += count
	}
	from, _ := number(data, fromMark)
	switch {
	case r.Next >= 0 && from > r.Next:
		tally.Gaps++
	case from < r.Next:
		tally.Doubles++
	}
	if seq, ok := number(data, seqMark); ok && seq >= 0 {
		r.Next = seq + 1
	}
}

// number returns the whole number after a mark.
func number(data, mark []byte) (int64, bool) {
	at := bytes.Index(data, mark)
	if at < 0 {
		return 0, false
	}
	data = data[at+len(mark):]
	negative, digits, value := false, 0, int64(0)
	for i, c := range data {
		switch {
		case c == ' ' && digits == 0:
			continue
		case c == '-' && digits == 0:
			negative = true
			continue
		case c >= '0' && c <= '9':
			value, digits = value*10+int64(data[i]-'0'), digits+1
			continue
		}
		break
	}
	if negative {
		value = -value
	}
	return value, digits > 0
}
