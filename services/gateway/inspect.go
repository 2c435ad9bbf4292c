package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// The deepest message of the contract has five levels.
	depthMax = 32
	// One refusal lists this many faults at most.
	faultsMax = 100
	// Found values are quoted up to this length.
	quoteMax = 40
)

// inspect reads a body before it is decoded and lists everything in it that is not as the message has it, each with its
// place: unknown and repeated fields, wrong types, unknown enum values, and integers that are not written as such.
// protojson stops at the first fault, names no place, and takes 1e3 and "1.0" for integers.
//
// Takes the bytes and the message they should be. Blank bytes are no body and no fault.
func inspect(body []byte, wanted protoreflect.MessageDescriptor) *problem {
	s := &scanner{body: body}
	if s.space(); s.at == len(body) {
		return nil
	}
	err := s.message(wanted, 1)
	if err == nil {
		if s.space(); s.at < len(body) {
			err = s.syntax("the end of the body")
		}
	}
	if err != nil {
		return refuse("MALFORMED_REQUEST", "%s", err.Error())
	}
	if len(s.faults) == 0 {
		return nil
	}
	first := s.faults[0]
	p := refuse("MALFORMED_REQUEST", "%s: %s%s", strings.TrimPrefix(first.Pointer, "/"), first.Detail, more(len(s.faults)-1))
	p.Errors = s.faults
	return p
}

func more(count int) string {
	if count == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d more)", count)
}
func (s *scanner) fault(code, format string, facts ...any) {
	if len(s.faults) >= faultsMax {
		return
	}
	var pointer strings.Builder
	for _, part := range s.path {
		pointer.WriteByte('/')
		if part.name != "" {
			pointer.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(part.name))
		} else {
			pointer.WriteString(strconv.Itoa(part.index))
		}
	}
	s.faults = append(s.faults, fault{pointer.String(), code, fmt.Sprintf(format, facts...)})
}

func (s *scanner) message(wanted protoreflect.MessageDescriptor, depth int) error {
	if s.next() != '{' {
		return s.mismatch("an object", depth)
	}
	fields := wanted.Fields()
	var seen fieldSet
	return s.members(depth, func(name string) error {
		field := fields.ByTextName(name)
		if field == nil {
			field = fields.ByJSONName(name)
		}
		if field == nil {
			s.fault("FIELD_UNKNOWN", "unknown field; wanted: a field of %s%s", wanted.Name(), suggestion(name, fields))
			return s.skip(depth + 1)
		}
		if seen.add(field.Number()) {
			s.fault("FIELD_REPEATED", "given more than once; wanted: once")
		}
		return s.field(field, depth+1)
	})
}

func (s *scanner) field(field protoreflect.FieldDescriptor, depth int) error {
	if s.next() == 'n' {
		return s.word("null") // the field is absent
	}
	switch {
	case field.IsMap():
		if s.next() != '{' {
			return s.mismatch("an object", depth)
		}
		return s.members(depth, func(string) error { return s.value(field.MapValue(), depth+1) })
	case field.IsList():
		if s.next() != '[' {
			return s.mismatch("an array", depth)
		}
		return s.items(depth, func() error { return s.value(field, depth+1) })
	default:
		return s.value(field, depth)
	}
}

// value reads one value of a field's kind.
func (s *scanner) value(field protoreflect.FieldDescriptor, depth int) error {
	found := s.next()
	switch kind := field.Kind(); kind {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if field.Message().ParentFile().Package() == "google.protobuf" {
			return s.skip(depth) // Timestamp, FieldMask, ...: a JSON form of their own, which protojson knows
		}
		return s.message(field.Message(), depth)
	case protoreflect.BoolKind:
		if found != 't' && found != 'f' {
			return s.mismatch("true or false", depth)
		}
		return s.skip(depth)
	case protoreflect.StringKind:
		if found != '"' {
			return s.mismatch("a text in quotes", depth)
		}
		return s.skip(depth)
	case protoreflect.BytesKind:
		if found != '"' {
			return s.mismatch("bytes as base64 in quotes", depth)
		}
		return s.skip(depth)
	case protoreflect.EnumKind:
		return s.enum(field.Enum(), depth)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return s.skip(depth) // the contract has none
	default:
		return s.integer(kind, depth)
	}
}

// integer reads a number or a text: digits, a minus before them if it is below zero, nothing else.
func (s *scanner) integer(kind protoreflect.Kind, depth int) error {
	found := s.next()
	if found != '"' && found != '-' && (found < '0' || found > '9') {
		return s.mismatch("a whole number", depth)
	}
	start := s.at
	if err := s.skip(depth); err != nil {
		return err
	}
	raw := string(s.body[start:s.at])
	digits := raw
	if found == '"' {
		digits = raw[1 : len(raw)-1]
	}
	if !wholeNumber(digits) {
		s.fault("NUMBER_FORMAT_INVALID", "found %s; wanted: a whole number, without fraction, exponent or leading zero", quote(raw))
		return nil
	}
	var err error
	switch kind {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		_, err = strconv.ParseInt(digits, 10, 32)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		_, err = strconv.ParseUint(digits, 10, 32)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		_, err = strconv.ParseUint(digits, 10, 64)
	default:
		_, err = strconv.ParseInt(digits, 10, 64)
	}
	if err != nil {
		s.fault("AMOUNT_OUT_OF_RANGE", "found %s; wanted: a number that fits %s", quote(raw), kind)
	}
	return nil
}

// wholeNumber holds the grammar -?(0|[1-9][0-9]*), ASCII.
func wholeNumber(digits string) bool {
	digits = strings.TrimPrefix(digits, "-")
	if digits == "" || len(digits) > 1 && digits[0] == '0' {
		return false
	}
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return false
		}
	}
	return true
}

func (s *scanner) enum(wanted protoreflect.EnumDescriptor, depth int) error {
	found := s.next()
	if found != '"' && found != '-' && (found < '0' || found > '9') {
		return s.mismatch("one of "+enumNames(wanted), depth)
	}
	start := s.at
	if err := s.skip(depth); err != nil {
		return err
	}
	raw := string(s.body[start:s.at])
	var known bool
	if found == '"' {
		known = wanted.Values().ByName(protoreflect.Name(raw[1:len(raw)-1])) != nil
	} else if number, err := strconv.ParseInt(raw, 10, 32); err == nil {
		known = wanted.Values().ByNumber(protoreflect.EnumNumber(number)) != nil
	}
	if !known {
		s.fault("ENUM_UNKNOWN", "found %s; wanted: one of %s", quote(raw), enumNames(wanted))
	}
	return nil
}

func enumNames(wanted protoreflect.EnumDescriptor) string {
	var names []string
	for i := range wanted.Values().Len() {
		if value := wanted.Values().Get(i); value.Number() != 0 {
			names = append(names, string(value.Name()))
		}
	}
	return strings.Join(names, ", ")
}

// mismatch notes a value of the wrong type and passes over it.
func (s *scanner) mismatch(wanted string, depth int) error {
	s.space()
	start := s.at
	if err := s.skip(depth); err != nil {
		return err
	}
	s.fault("TYPE_INVALID", "found %s; wanted: %s", quote(string(s.body[start:s.at])), wanted)
	return nil
}

func quote(found string) string {
	if len(found) > quoteMax {
		end := quoteMax
		for !utf8.RuneStart(found[end]) {
			end--
		}
		return found[:end] + "…"
	}
	return found
}

// skip passes over any value; it only has to be JSON.
// A fieldSet remembers which fields of a message came; field numbers up to 127 take no allocation.
type fieldSet struct {
	low  [2]uint64
	high map[protoreflect.FieldNumber]bool
}

// add tells whether the field was there already.
func (f *fieldSet) add(number protoreflect.FieldNumber) bool {
	if number < 128 {
		word, bit := number/64, uint64(1)<<(number%64)
		there := f.low[word]&bit != 0
		f.low[word] |= bit
		return there
	}
	there := f.high[number]
	if f.high == nil {
		f.high = map[protoreflect.FieldNumber]bool{}
	}
	f.high[number] = true
	return there
}

// suggestion names the field that an unknown one is most like, if there is one.
func suggestion(name string, fields protoreflect.FieldDescriptors) string {
	best, least := "", 3
	for i := range fields.Len() {
		known := string(fields.Get(i).Name())
		if strings.HasPrefix(known, name+"_") {
			return fmt.Sprintf("; did you mean %s?", known)
		}
		if away := distance(name, known, least); away < least {
			best, least = known, away
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// distance is Levenshtein's between two names, or limit if it is at least that.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := corner
			if a[i] != b[j] {
				cost++
			}
			corner = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], limit)
}
