package main

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// inspectQuery refuses parameters that the request message does not have, or that the body or the path give; the
// library would pass over them.
func inspectQuery(raw string, on *route) *problem {
	if raw == "" {
		return nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return refuse("MALFORMED_REQUEST", "the query cannot be read: it has a broken escape or a semicolon")
	}
	var faults []fault
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		code, detail := inspectParameter(name, values[name], on)
		if code != "" && len(faults) < faultsMax {
			faults = append(faults, fault{"/" + name, code, detail})
		}
	}
	if len(faults) == 0 {
		return nil
	}
	p := refuse("MALFORMED_REQUEST", "%s: %s%s", strings.TrimPrefix(faults[0].Pointer, "/"), faults[0].Detail, more(len(faults)-1))
	p.Errors = faults
	return p
}

func inspectParameter(name string, values []string, on *route) (code, detail string) {
	fields := on.rpc.Input().Fields()
	field := fields.ByTextName(name)
	if field == nil {
		field = fields.ByJSONName(name)
	}
	switch {
	case field == nil:
		return "FIELD_UNKNOWN", "unknown parameter; wanted: a field of " + string(on.rpc.Input().Name()) + suggestion(name, fields)
	case slices.Contains(on.inPath, string(field.Name())):
		return "FIELD_REPEATED", "the path gives this already"
	case on.body == "*" || on.body == string(field.Name()):
		return "FIELD_UNKNOWN", "a parameter of the query; wanted: this in the body"
	case field.IsList():
		return "", ""
	case len(values) > 1:
		return "FIELD_REPEATED", "given more than once; wanted: once"
	}
	// A value is held to the same rules as in a body.
	quoted, err := json.Marshal(values[0])
	if err != nil {
		panic(err) // any text can be quoted
	}
	s := &scanner{body: quoted}
	switch field.Kind() {
	case protoreflect.BoolKind:
		if values[0] != "true" && values[0] != "false" {
			return "TYPE_INVALID", "found " + quote(values[0]) + "; wanted: true or false"
		}
	case protoreflect.MessageKind, protoreflect.StringKind, protoreflect.BytesKind:
	default:
		if err := s.value(field, 1); err != nil {
			return "TYPE_INVALID", err.Error()
		}
	}
	if len(s.faults) > 0 {
		return s.faults[0].Code, s.faults[0].Detail
	}
	return "", ""
}
