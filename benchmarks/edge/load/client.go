package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// Plan is what clients there are to be.
type Plan struct {
	Host, Path    string
	Port          int
	Streams       int
	Connections   int
	PerSecond     int // connects; 0 = as fast as they are answered
	Pending       int // connects that may be unanswered at a time
	ReceiveBuffer int // bytes of the socket; 0 = the kernel's own, which grows
	From          int64
	Places        []Place // one a client, in turn
}

// Place is where a client resumes: what it sends as Last-Event-ID, and the seq that must come first.
type Place struct {
	Cursor string
	Next   int64
}

type client struct {
	Reader
	fd      int
	request string // until it was sent
	stalled bool
	open    bool
}

// Clients are all connections, looked after by one thread: an epoll, one buffer, no goroutine each.
type Clients struct {
	plan      Plan
	epoll     int
	all       []client
	byFd      map[int32]*client
	unopened  int // places in all from here on
	pending   int
	Ready     int
	Failed    int // could not connect, or were answered otherwise
	Lost      int // closed by the server after they were answered
	Stalled   int
	firstFail string
	tally     Tally
	since     time.Time
	began     time.Time
	buffer    []byte
	scratch   []byte
	events    []syscall.EpollEvent
}

// NewClients opens nothing yet.
func NewClients(plan Plan) (*Clients, error) {
	epoll, err := syscall.EpollCreate1(0)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	now := time.Now()
	return &Clients{
		plan: plan, epoll: epoll, all: make([]client, plan.Connections),
		byFd: make(map[int32]*client, plan.Connections), since: now, began: now,
		buffer: make([]byte, 256<<10), events: make([]syscall.EpollEvent, 1024),
	}, nil
}

// Turn opens what is due and reads what came, or waits for it a little.
func (c *Clients) Turn() error {
	for c.unopened < len(c.all) && c.pending < c.plan.Pending && c.isDue() {
		if err := c.connect(c.unopened); err != nil {
			return err
		}
		c.unopened++
	}
	n, err := syscall.EpollWait(c.epoll, c.events, 5)
	if err != nil && err != syscall.EINTR {
		return os.NewSyscallError("epoll_wait", err)
	}
	for i := 0; i < n; i++ {
		event := &c.events[i]
		one := c.byFd[event.Fd]
		switch {
		case one == nil:
		case one.request != "":
			c.send(one)
		default:
			c.read(one)
		}
	}
	return nil
}

func (c *Clients) isDue() bool {
	if c.plan.PerSecond == 0 {
		return true
	}
	return float64(c.unopened) < time.Since(c.began).Seconds()*float64(c.plan.PerSecond)
}

func (c *Clients) connect(i int) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket %d: %w (is the limit of open files too low?)", i, err)
	}
	// A reset at the end: thousands of connections in TIME_WAIT would use up the ports of the next work.
	_ = syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	if c.plan.ReceiveBuffer > 0 {
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, c.plan.ReceiveBuffer)
	}
	one := &c.all[i]
	one.fd, one.open = fd, true
	one.Next = c.plan.From
	place := Place{}
	if len(c.plan.Places) > 0 {
		place = c.plan.Places[i%len(c.plan.Places)]
		one.Next = place.Next
	}
	one.request = c.request(i, place)
	c.byFd[int32(fd)] = one
	c.pending++
	address := &syscall.SockaddrInet4{Port: c.plan.Port}
	copy(address.Addr[:], net.ParseIP(c.plan.Host).To4())
	if err := syscall.Connect(fd, address); err != nil && err != syscall.EINPROGRESS {
		c.fail(one, os.NewSyscallError("connect", err).Error())
		return nil
	}
	return c.control(syscall.EPOLL_CTL_ADD, one, syscall.EPOLLOUT)
}

func (c *Clients) request(i int, place Place) string {
	path := strings.ReplaceAll(c.plan.Path, "{stream}", fmt.Sprint(i%c.plan.Streams))
	cursor := ""
	if place.Cursor != "" {
		cursor = "Last-Event-ID: " + place.Cursor + "\r\n"
	}
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s:%d\r\nAccept: text/event-stream\r\n%s\r\n",
		path, c.plan.Host, c.plan.Port, cursor)
}

func (c *Clients) send(one *client) {
	n, err := syscall.Write(one.fd, []byte(one.request))
	if err != nil || n != len(one.request) {
		c.fail(one, fmt.Sprintf("the request could not be sent: %v", err))
		return
	}
	one.request = ""
	if err := c.control(syscall.EPOLL_CTL_MOD, one, syscall.EPOLLIN); err != nil {
		c.fail(one, err.Error())
	}
}

func (c *Clients) read(one *client) {
	n, err := syscall.Read(one.fd, c.buffer)
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return
	}
	if n <= 0 || err != nil {
		if one.Status == 0 {
			c.fail(one, fmt.Sprintf("closed without an answer: %v", err))
			return
		}
		c.Lost++
		c.close(one)
		return
	}
	c.tally.Bytes += int64(n)
	c.tally.Reads++
	unanswered := one.Status == 0
	if !one.Feed(c.buffer[:n], time.Now().UnixNano(), &c.tally, &c.scratch) {
		c.fail(one, fmt.Sprintf("what came is not HTTP: %.60q", c.buffer[:n]))
		return
	}
	if unanswered && one.Status != 0 {
		if one.Status != 200 {
			c.fail(one, fmt.Sprintf("answered %d", one.Status))
			return
		}
		c.pending--
		c.Ready++
	}
}

// Stall has the first so many clients read no more; 0 has all read on.
func (c *Clients) Stall(count int) error {
	c.Stalled = 0
	for i := range c.all {
		one := &c.all[i]
		if stalls := i < count; one.open && stalls != one.stalled {
			events := uint32(syscall.EPOLLIN)
			if stalls {
				events = 0
			}
			if err := c.control(syscall.EPOLL_CTL_MOD, one, events); err != nil {
				return err
			}
			one.stalled = stalls
		}
		if one.stalled {
			c.Stalled++
		}
	}
	return nil
}

// Close closes all connections.
func (c *Clients) Close() {
	for i := range c.all {
		c.close(&c.all[i])
	}
}

func (c *Clients) fail(one *client, cause string) {
	if c.firstFail == "" {
		c.firstFail = cause
	}
	c.Failed++
	if one.Status != 200 {
		c.pending--
	}
	c.close(one)
}

func (c *Clients) close(one *client) {
	if !one.open {
		return
	}
	one.open = false
	delete(c.byFd, int32(one.fd))
	_ = syscall.Close(one.fd)
}

func (c *Clients) control(operation int, one *client, events uint32) error {
	event := syscall.EpollEvent{Events: events, Fd: int32(one.fd)}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(c.epoll, operation, one.fd, &event))
}
