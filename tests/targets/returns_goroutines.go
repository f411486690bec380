// returns_goroutines MODE COUNT DEPTH: COUNT goroutines are inside of probed() at once.
//
//	grow     it recurses with big frames: the stack is copied while calls are active
//	migrate  it gives way at every depth, so that goroutines go on on other threads
//	panic    it panics, and the goroutine recovers; every other call returns
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
)

var calls, returns, sum uint64

//go:noinline
func probed(depth int, mode string) int {
	var frame [512]byte
	atomic.AddUint64(&calls, 1)
	frame[depth&511] = byte(depth)
	below := 0
	if depth > 0 {
		below = probed(depth-1, mode)
	} else if mode == "panic" {
		panic("at the bottom")
	}
	if mode == "migrate" {
		runtime.Gosched()
	}
	value := below + int(frame[depth&511]) + 1
	atomic.AddUint64(&returns, 1)
	atomic.AddUint64(&sum, uint64(value))
	return value
}

//go:noinline
func guarded(depth int, mode string) (recovered bool) {
	defer func() { recovered = recover() != nil }()
	probed(depth, mode)
	return
}

func main() {
	mode, count, depth := "grow", 10, 40
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	if len(os.Args) > 2 {
		count, _ = strconv.Atoi(os.Args[2])
	}
	if len(os.Args) > 3 {
		depth, _ = strconv.Atoi(os.Args[3])
	}
	runtime.GOMAXPROCS(4)
	if descriptor, err := strconv.Atoi(os.Getenv("READY_FD")); err == nil {
		os.NewFile(uintptr(descriptor), "ready").WriteString("ready\n")
	}
	os.Stdin.Read(make([]byte, 1))
	var group sync.WaitGroup
	var recovered uint64
	for i := 0; i < count; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			for round := 0; round < 3; round++ {
				if guarded(depth+i%3, mode) {
					atomic.AddUint64(&recovered, 1)
				}
				guarded(depth/4, "")
			}
		}(i)
	}
	group.Wait()
	fmt.Printf("main.probed_calls %d\nmain.probed_returns %d\nmain.probed_sum %d\n", calls, returns, sum)
	fmt.Printf("recovered %d\n", recovered)
}
