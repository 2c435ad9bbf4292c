package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Written by `make proto` from the comments and HTTP lines of the contract.
//
//go:embed openapi/invochain.swagger.json
var generated []byte

// A reference is what the gateway says of itself: the OpenAPI file, a page of it, and a page for each problem type.
type reference struct {
	openAPI, page []byte
	problems      map[string][]byte
}

type object = map[string]any

// Mutating methods that need no key of their own (PROTOCOL 2): nothing is changed, or every item carries its own key or
// id.
var keyless = []protoreflect.Name{
	"SignIn", "RefreshToken", "ValidateInvoice", "CancelOperation", "BatchCreateInvoices",
	"ConfirmReservations", "ReleaseReservations",
}

// newReference completes the generated OpenAPI file by what the generator cannot know: how errors read, which headers
// a method takes, what answers 201, who needs a token.
func newReference() (*reference, error) {
	var api object
	if err := json.Unmarshal(generated, &api); err != nil {
		return nil, fmt.Errorf("openapi/invochain.swagger.json: %w", err)
	}
	api["info"] = object{
		"title": "InvoChain", "version": "v1",
		"description": "GST invoices, issued exactly once. Amounts are whole paise and 64-bit integers are texts. " +
			"Every refusal is an application/problem+json with a code to switch on.",
	}
	api["schemes"] = []string{"http", "https"}
	api["produces"] = []string{"application/json", "application/problem+json"}
	api["securityDefinitions"] = object{"bearer": object{
		"type": "apiKey", "in": "header", "name": "Authorization", "description": "`Bearer` and an access token of SignIn",
	}}
	api["security"] = []object{{"bearer": []string{}}}
	api["definitions"].(object)["Problem"] = problemSchema()
	paths := api["paths"].(object)
	for _, r := range routes {
		path, ok := paths[variable.ReplaceAllString(r.template, "{$1}")].(object)
		if !ok {
			return nil, fmt.Errorf("openapi/invochain.swagger.json lacks %s; run make proto", r.template)
		}
		r.complete(path[strings.ToLower(r.method)].(object))
	}
	text, err := json.MarshalIndent(api, "", " ")
	if err != nil {
		return nil, err
	}
	ref := &reference{openAPI: text, problems: map[string][]byte{}}
	if ref.page, err = render("docs", newPage(api)); err != nil {
		return nil, err
	}
	for reason, text := range reasons {
		if ref.problems[kebab(reason)], err = render("problem", pageReason{reason, text.title, statusOf(reason, text.code),
			retryable(reason, text.code), kebab(reason)}); err != nil {
			return nil, err
		}
	}
	return ref, nil
}

var variable = regexp.MustCompile(`\{(\w+)=[^}]*\}`)

func (r *route) complete(operation object) {
	responses := operation["responses"].(object)
	if r.location != nil {
		responses["201"] = responses["200"]
		responses["201"].(object)["description"] = "Made; a replay answers the same, with X-Idempotent-Replayed."
		delete(responses, "200")
	}
	responses["default"] = object{"description": "Refused, or not done.", "schema": object{"$ref": "#/definitions/Problem"}}
	if r.open || strings.HasPrefix(r.template, "/.well-known/") {
		operation["security"] = []object{}
	}
	parameters, _ := operation["parameters"].([]any)
	if !r.read() && !slices.Contains(keyless, r.rpc.Name()) {
		parameters = append(parameters, object{
			"name": "Idempotency-Key", "in": "header", "type": "string", "required": true,
			"pattern": keyGrammar.String(), "minLength": 16, "maxLength": 128,
			"description": "Makes a repeat harmless: the same key with the same body returns the first answer. A UUID for choice.",
		})
	}
	if !r.read() && r.bodyType.Fields().ByName("etag") != nil && r.location == nil {
		parameters = append(parameters, object{
			"name": "If-Match", "in": "header", "type": "string", "required": false,
			"description": "The ETag the change is meant for; another present one is refused with VERSION_MISMATCH.",
		})
	}
	if parameters != nil {
		operation["parameters"] = parameters
	}
}

func problemSchema() object {
	text := func(description string) object { return object{"type": "string", "description": description} }
	return object{
		"type": "object", "description": "RFC 9457. Switch on `code`; texts may change.",
		"required": []string{"type", "title", "status", "code", "detail", "instance", "request_id", "trace_id", "retryable"},
		"properties": object{
			"type": text("Path of a page about this problem."), "title": text("The same for every problem of a type."),
			"status": object{"type": "integer", "format": "int32"}, "code": text("Reason, for example INSUFFICIENT_STOCK."),
			"detail": text("What was found and what is wanted."), "instance": text("Path of the request."),
			"request_id": text("Finds the log lines."), "trace_id": text("W3C trace id."),
			"retryable": object{"type": "boolean", "description": "Whether to repeat, with the same key, after Retry-After."},
			"metadata":  object{"type": "object", "additionalProperties": object{"type": "string"}, "description": "Facts of the reason."},
			"errors": object{"type": "array", "items": object{
				"type": "object", "required": []string{"pointer", "code", "detail"},
				"properties": object{"pointer": text("JSON pointer into the body (RFC 6901)."), "code": text("The broken rule."), "detail": text("")},
			}},
		},
	}
}

func (ref *reference) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-cache")
	if r.URL.Path == "/docs" {
		ref.html(w, ref.page)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(ref.openAPI)
}

// problem tells about one problem type; false if there is none of that name.
func (ref *reference) problem(w http.ResponseWriter, name string) bool {
	page, ok := ref.problems[name]
	if ok {
		ref.html(w, page)
	}
	return ok
}

func (ref *reference) html(w http.ResponseWriter, page []byte) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	_, _ = w.Write(page)
}

type pageReason struct {
	Reason, Title string
	Status        int
	Retryable     bool
	Slug          string
}

type pageOperation struct {
	ID, Method, Path, Summary, Description string
	Parameters                             []pageParameter
	Open                                   bool
}

type pageParameter struct{ Name, In, Type, Description string }

type page struct {
	Rooms   []pageRoom
	Reasons []pageReason
}

type pageRoom struct {
	Name       string
	Operations []pageOperation
}

// newPage lists the operations of the OpenAPI file in the order of the contract.
func newPage(api object) page {
	var p page
	text := func(o object, name string) string { value, _ := o[name].(string); return value }
	for _, r := range routes {
		path := variable.ReplaceAllString(r.template, "{$1}")
		operation := api["paths"].(object)[path].(object)[strings.ToLower(r.method)].(object)
		room := string(r.rpc.Parent().Name())
		if len(p.Rooms) == 0 || p.Rooms[len(p.Rooms)-1].Name != room {
			p.Rooms = append(p.Rooms, pageRoom{Name: room})
		}
		o := pageOperation{
			ID: text(operation, "operationId"), Method: r.method, Path: path,
			Summary: text(operation, "summary"), Description: text(operation, "description"), Open: r.open,
		}
		parameters, _ := operation["parameters"].([]any)
		for _, each := range parameters {
			parameter := each.(object)
			kind := text(parameter, "type")
			if schema, ok := parameter["schema"].(object); ok {
				kind = strings.TrimPrefix(text(schema, "$ref"), "#/definitions/")
			}
			o.Parameters = append(o.Parameters, pageParameter{text(parameter, "name"), text(parameter, "in"), kind, text(parameter, "description")})
		}
		last := &p.Rooms[len(p.Rooms)-1]
		last.Operations = append(last.Operations, o)
	}
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		known := reasons[reason]
		p.Reasons = append(p.Reasons, pageReason{reason, known.title, statusOf(reason, known.code), retryable(reason, known.code), kebab(reason)})
	}
	return p
}

//go:embed docs.html
var pages string

func render(name string, facts any) ([]byte, error) {
	t, err := template.New("pages").Parse(pages)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.ExecuteTemplate(&out, name, facts)
	return out.Bytes(), err
}
