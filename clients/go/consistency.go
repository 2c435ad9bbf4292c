package invochain

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

const consistencyToken = "x-consistency-token"

// WithConsistency makes a call read no older state than the token's: one of an import's answers, or of another process.
func WithConsistency(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, consistencyToken, token)
}

// written knows how far a service's log reached at the latest write that was answered here.
type written struct {
	mutex sync.Mutex
	token string
}

func (w *written) unary(ctx context.Context, method string, request, answer any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	// A token of the caller's own stands.
	if sent, _ := metadata.FromOutgoingContext(ctx); len(sent.Get(consistencyToken)) == 0 {
		if token := w.latest(); token != "" {
			ctx = WithConsistency(ctx, token)
		}
	}
	var header metadata.MD
	err := invoke(ctx, method, request, answer, connection, append(slices.Clone(options), grpc.Header(&header))...)
	for _, token := range header.Get(consistencyToken) {
		w.learn(token)
	}
	return err
}

func (w *written) latest() string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.token
}

// learn keeps the later one: answers to calls side by side come in any order.
func (w *written) learn(token string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	known, told := place(w.token), place(token)
	if known == nil || told == nil || slices.Compare(told, known) >= 0 {
		w.token = token
	}
}

// place reads a token as numbers that grow with every write; nil for one of a form that is not known.
func place(token string) []uint64 {
	var numbers []uint64
	for part := range strings.SplitSeq(token, "/") {
		number, err := strconv.ParseUint(part, 16, 64)
		if err != nil {
			return nil
		}
		numbers = append(numbers, number)
	}
	return numbers
}
