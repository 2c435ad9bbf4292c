package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The status of a client that hung up; nobody reads it but the log.
const statusClientClosed = 499

// A problem is a refusal as REST tells it: RFC 9457, with the reasons of API section 7.
type problem struct {
	Type      string            `json:"type"`
	Title     string            `json:"title"`
	Status    int               `json:"status"`
	Code      string            `json:"code"`
	Detail    string            `json:"detail"`
	Instance  string            `json:"instance"`
	RequestID string            `json:"request_id"`
	TraceID   string            `json:"trace_id"`
	Retryable bool              `json:"retryable"`
	Errors    []fault           `json:"errors,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`

	retryAfter time.Duration
}

// A fault is one broken rule, with the place in the body as the client sent it (RFC 6901).
type fault struct {
	Pointer string `json:"pointer"`
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

// What a reason is called, and its status where the code alone would give another one.
type reasonText struct {
	title  string
	code   codes.Code
	status int
}

// Every reason of invochain.api.shared.v1.ErrorReason; a test holds the two together.
var reasons = map[string]reasonText{
	"VALIDATION_FAILED":                 {"The request breaks rules", codes.InvalidArgument, 0},
	"IDEMPOTENCY_KEY_REQUIRED":          {"An idempotency key is needed", codes.InvalidArgument, 0},
	"IDEMPOTENCY_KEY_INVALID":           {"The idempotency key is malformed", codes.InvalidArgument, 0},
	"KEY_REUSED_WITH_DIFFERENT_PAYLOAD": {"The idempotency key was used for another request", codes.InvalidArgument, http.StatusUnprocessableEntity},
	"PAGE_TOKEN_MISMATCH":               {"The page token belongs to another list", codes.InvalidArgument, 0},
	"MALFORMED_REQUEST":                 {"The request cannot be read", codes.InvalidArgument, 0},

	"TOKEN_INVALID":       {"No valid access token", codes.Unauthenticated, 0},
	"TOKEN_EXPIRED":       {"The token has expired", codes.Unauthenticated, 0},
	"CREDENTIALS_INVALID": {"E-mail or password is wrong", codes.Unauthenticated, 0},
	"ROLE_MISSING":        {"A role is missing", codes.PermissionDenied, 0},
	"SERVICE_ONLY":        {"For InvoChain services only", codes.PermissionDenied, 0},

	"INVOICE_NOT_FOUND":     {"No such invoice", codes.NotFound, 0},
	"RESERVATION_NOT_FOUND": {"No such reservation", codes.NotFound, 0},
	"MERCHANT_NOT_FOUND":    {"No such merchant", codes.NotFound, 0},
	"SKU_NOT_FOUND":         {"No such SKU", codes.NotFound, 0},
	"METHOD_NOT_FOUND":      {"No such method", codes.NotFound, 0},
	"DEAD_LETTER_NOT_FOUND": {"No such dead letter", codes.NotFound, 0},

	"DOC_NUMBER_DUPLICATE":     {"The document number is used", codes.AlreadyExists, 0},
	"GSTIN_ALREADY_REGISTERED": {"The GSTIN is registered already", codes.AlreadyExists, 0},
	"EMAIL_ALREADY_REGISTERED": {"The e-mail address is registered already", codes.AlreadyExists, 0},

	"INSUFFICIENT_STOCK":      {"Not enough stock", codes.FailedPrecondition, 0},
	"INVALID_STATE":           {"The state does not allow this", codes.FailedPrecondition, 0},
	"DEAD_LETTER_STATE":       {"The state does not allow this", codes.FailedPrecondition, 0},
	"CANCELLED_BY_CLIENT":     {"The key was ended by its client", codes.FailedPrecondition, 0},
	"RESERVATION_GONE":        {"The reservation is gone", codes.FailedPrecondition, 0},
	"RESERVATION_HELD":        {"The reservation belongs to an invoice", codes.FailedPrecondition, 0},
	"UNIT_MISMATCH":           {"The unit is not the one of the stock", codes.FailedPrecondition, 0},
	"OLDER_DEAD_LETTER_FIRST": {"An older dead letter comes first", codes.FailedPrecondition, 0},
	"SECOND_APPROVER_NEEDED":  {"A second approver is needed", codes.FailedPrecondition, 0},
	"BATCH_REFUSED":           {"Another item of the batch was refused", codes.FailedPrecondition, 0},

	"CONCURRENT_REQUEST":     {"A request with this key is under way", codes.Aborted, 0},
	"SAGA_ABORTED":           {"This attempt came too late", codes.Aborted, 0},
	"VERSION_MISMATCH":       {"The resource has changed", codes.Aborted, http.StatusPreconditionFailed},
	"RESERVATION_TOMBSTONED": {"The reservation was released before it was made", codes.Aborted, 0},

	"RATE_LIMITED":      {"Too many requests", codes.ResourceExhausted, 0},
	"BULKHEAD_FULL":     {"Too much work is waiting", codes.ResourceExhausted, http.StatusServiceUnavailable},
	"MESSAGE_TOO_LARGE": {"The request is too large", codes.ResourceExhausted, http.StatusRequestEntityTooLarge},

	"DEPENDENCY_DOWN":    {"A service cannot be reached", codes.Unavailable, 0},
	"CIRCUIT_OPEN":       {"A service is failing and is not asked", codes.Unavailable, 0},
	"DEADLINE_TOO_SHORT": {"There was not enough time", codes.DeadlineExceeded, 0},
	"SHUTTING_DOWN":      {"The service is stopping", codes.Unavailable, 0},

	"INTERNAL":         {"Internal error", codes.Internal, 0},
	"INVARIANT_BROKEN": {"An invariant is broken", codes.DataLoss, 0},
}

// The reason of a status that carries none, made by gRPC itself on the way.
var reasonOfCode = map[codes.Code]string{
	codes.Canceled:          "CANCELLED",
	codes.Unknown:           "INTERNAL",
	codes.InvalidArgument:   "MALFORMED_REQUEST",
	codes.DeadlineExceeded:  "DEADLINE_TOO_SHORT",
	codes.NotFound:          "METHOD_NOT_FOUND",
	codes.PermissionDenied:  "ROLE_MISSING",
	codes.ResourceExhausted: "BULKHEAD_FULL",
	codes.Unimplemented:     "METHOD_NOT_FOUND",
	codes.Internal:          "INTERNAL",
	codes.Unavailable:       "DEPENDENCY_DOWN",
	codes.DataLoss:          "INVARIANT_BROKEN",
	codes.Unauthenticated:   "TOKEN_INVALID",
}

// statusOf maps by reason first, then by code (API section 7); the library's own table says 400 for a final refusal.
func statusOf(reason string, code codes.Code) int {
	if known, ok := reasons[reason]; ok && known.status != 0 {
		return known.status
	}
	switch code {
	case codes.InvalidArgument, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted, codes.FailedPrecondition:
		return http.StatusConflict
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.Canceled:
		return statusClientClosed
	default:
		return http.StatusInternalServerError
	}
}

// retryable tells whether the same request with the same key may do better (PROTOCOL 13). A stale etag will not, nor
// will a request that is too large.
func retryable(reason string, code codes.Code) bool {
	switch code {
	case codes.Aborted, codes.ResourceExhausted:
		return reason != "VERSION_MISMATCH" && reason != "MESSAGE_TOO_LARGE"
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.Unknown:
		return true
	default:
		return false
	}
}

// refuse makes a problem of the gateway's own.
func refuse(reason, detail string, facts ...any) *problem {
	known := reasons[reason]
	return newProblem(reason, known.code, fmt.Sprintf(detail, facts...))
}

func newProblem(reason string, code codes.Code, detail string) *problem {
	title := reasons[reason].title
	if title == "" {
		title = code.String()
	}
	return &problem{
		Type: "/problems/" + kebab(reason), Title: title, Status: statusOf(reason, code),
		Code: reason, Detail: detail, Retryable: retryable(reason, code),
	}
}

// problemOf reads a service's answer: google.rpc.Status with one ErrorInfo and what else fits.
func problemOf(err error, on *route) *problem {
	s := status.Convert(err)
	var (
		info     *errdetails.ErrorInfo
		faults   []fault
		retry    time.Duration
		hasRetry bool
	)
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				faults = append(faults, fault{pointerOf(v.GetField(), on), v.GetReason(), v.GetDescription()})
			}
		case *errdetails.PreconditionFailure:
			for _, v := range d.GetViolations() {
				faults = append(faults, fault{"", v.GetType(), v.GetSubject() + ": " + v.GetDescription()})
			}
		case *errdetails.QuotaFailure:
			for _, v := range d.GetViolations() {
				faults = append(faults, fault{"", "RATE_LIMITED", v.GetSubject() + ": " + v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			retry, hasRetry = d.GetRetryDelay().AsDuration(), true
		}
	}
	var p *problem
	if info != nil {
		p = newProblem(info.GetReason(), s.Code(), s.Message())
		p.Metadata = info.GetMetadata()
	} else {
		p = bareProblem(s)
	}
	p.Errors = faults
	if hasRetry {
		p.retryAfter = max(retry, time.Millisecond)
	} else if p.Status == http.StatusServiceUnavailable {
		p.retryAfter = time.Second
	}
	return p
}

// bareProblem is for a status without a reason: gRPC's own words, which may name addresses, stay inside.
func bareProblem(s *status.Status) *problem {
	reason, known := reasonOfCode[s.Code()]
	if !known {
		return newProblem(s.Code().String(), s.Code(), s.Message())
	}
	detail := map[codes.Code]string{
		codes.Canceled:          "the request was given up; the outcome is unknown, repeat with the same key",
		codes.DeadlineExceeded:  "no answer in time; the outcome is unknown, repeat with the same key",
		codes.Unavailable:       "a service cannot be reached; the outcome is unknown, repeat with the same key",
		codes.ResourceExhausted: "the service is full; repeat later with the same key",
		codes.Unimplemented:     "this service does not have the method yet",
		codes.InvalidArgument:   strings.ReplaceAll(s.Message(), "\u00a0", " "), // protojson varies its spaces
	}[s.Code()]
	if s.Code() == codes.ResourceExhausted && strings.Contains(s.Message(), "larger than max") {
		reason = "MESSAGE_TOO_LARGE"
		detail = fmt.Sprintf("the request is too large; wanted: at most %d bytes", requestBytesMax)
	}
	if detail == "" {
		detail = strings.ToLower(reasons[reason].title) + "; request_id finds the log line"
	}
	return newProblem(reason, s.Code(), detail)
}

// pointerOf turns a path of the request message into a JSON pointer into the body: with `body: "invoice"`,
// `invoice.lines[2].hsn` is /lines/2/hsn.
func pointerOf(field string, on *route) string {
	if field == "" {
		return ""
	}
	if on != nil && on.body != "" && on.body != "*" {
		if rest, inside := strings.CutPrefix(field, on.body); inside && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			if field = strings.TrimPrefix(rest, "."); field == "" {
				return ""
			}
		}
	}
	field = strings.ReplaceAll(strings.ReplaceAll(field, "~", "~0"), "/", "~1")
	return "/" + strings.NewReplacer("[", "/", "].", "/", "]", "", ".", "/").Replace(field)
}

// write tells the problem.
func (p *problem) write(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r.Context())
	p.Instance, p.RequestID, p.TraceID = r.URL.Path, x.requestID, x.traceID
	x.reason = p.Code
	header := w.Header()
	for _, stale := range []string{"ETag", "Location", "Content-Length", "Trailer", "Transfer-Encoding"} {
		header.Del(stale)
	}
	header.Set("Content-Type", "application/problem+json")
	if p.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds()))))
	}
	if p.Status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", `Bearer realm="invochain"`)
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // a problem is texts and numbers only
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(text) // a client that has gone reads nothing
}

// answerError is the mux's error handler: refusals of services, and what the library finds while decoding.
func answerError(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if told, ok := runtime.ServerMetadataFromContext(ctx); ok {
		// An answer that is only an error has its metadata in the trailer.
		for name, header := range outgoing {
			if values := append(told.HeaderMD.Get(name), told.TrailerMD.Get(name)...); len(values) > 0 {
				w.Header().Set(header, values[0])
			}
		}
	}
	var malformed *runtime.HTTPStatusError
	if errors.As(err, &malformed) {
		refuse("MALFORMED_REQUEST", "the path has a broken escape").write(w, r)
		return
	}
	problemOf(err, exchangeOf(ctx).route).write(w, r)
}

// answerLost is the mux's answer to a path or a method that there is not.
func answerLost(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, found int) {
	methods := allowed(r.URL.Path)
	var p *problem
	switch {
	case found == http.StatusBadRequest:
		p = refuse("MALFORMED_REQUEST", "the path is not one")
	case found == http.StatusMethodNotAllowed && len(methods) > 0:
		p = refuse("METHOD_NOT_FOUND", "%s is not a method of this path; wanted: %s", r.Method, strings.Join(methods, ", "))
		p.Status = http.StatusMethodNotAllowed
		w.Header().Set("Allow", strings.Join(methods, ", "))
	default:
		p = refuse("METHOD_NOT_FOUND", "there is nothing at this path; /openapi.json lists what there is")
	}
	p.write(w, r)
}
