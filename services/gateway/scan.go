package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// A scanner walks over the bytes of a body and keeps the path to where it is. What the bytes should mean is inspect.go's.
type scanner struct {
	body   []byte
	at     int
	path   []segment
	faults []fault
}

// A segment is a member's name, or an item's index.
type segment struct {
	name  string
	index int
}

func (s *scanner) syntax(wanted string) error {
	if s.at >= len(s.body) {
		return fmt.Errorf("the body is not JSON: it ends at byte %d; wanted: %s", s.at, wanted)
	}
	return fmt.Errorf("the body is not JSON: byte %d is %q; wanted: %s", s.at, s.body[s.at], wanted)
}

func (s *scanner) space() {
	for s.at < len(s.body) && (s.body[s.at] == ' ' || s.body[s.at] == '\n' || s.body[s.at] == '\t' || s.body[s.at] == '\r') {
		s.at++
	}
}

// next skips spaces and tells the byte that follows; 0 at the end.
func (s *scanner) next() byte {
	s.space()
	if s.at == len(s.body) {
		return 0
	}
	return s.body[s.at]
}

// members reads an object, calling each with every name, at its value.
func (s *scanner) members(depth int, each func(name string) error) error {
	if depth > depthMax {
		return fmt.Errorf("the body is nested deeper than %d levels at byte %d", depthMax, s.at)
	}
	s.at++ // {
	if s.next() == '}' {
		s.at++
		return nil
	}
	for {
		if s.next() != '"' {
			return s.syntax("a field name in quotes")
		}
		name, err := s.text()
		if err != nil {
			return err
		}
		if s.next() != ':' {
			return s.syntax("a colon")
		}
		s.at++
		s.path = append(s.path, segment{name: name})
		if err := each(name); err != nil {
			return err
		}
		s.path = s.path[:len(s.path)-1]
		switch s.next() {
		case ',':
			s.at++
		case '}':
			s.at++
			return nil
		default:
			return s.syntax("a comma or }")
		}
	}
}

// items reads an array, calling each at every value.
func (s *scanner) items(depth int, each func() error) error {
	if depth > depthMax {
		return fmt.Errorf("the body is nested deeper than %d levels at byte %d", depthMax, s.at)
	}
	s.at++ // [
	if s.next() == ']' {
		s.at++
		return nil
	}
	for index := 0; ; index++ {
		s.path = append(s.path, segment{index: index})
		if err := each(); err != nil {
			return err
		}
		s.path = s.path[:len(s.path)-1]
		switch s.next() {
		case ',':
			s.at++
		case ']':
			s.at++
			return nil
		default:
			return s.syntax("a comma or ]")
		}
	}
}

// skip passes over any value; it only has to be JSON.
func (s *scanner) skip(depth int) error {
	switch found := s.next(); {
	case found == '{':
		return s.members(depth, func(string) error { return s.skip(depth + 1) })
	case found == '[':
		return s.items(depth, func() error { return s.skip(depth + 1) })
	case found == '"':
		_, _, err := s.quoted()
		return err
	case found == 't':
		return s.word("true")
	case found == 'f':
		return s.word("false")
	case found == 'n':
		return s.word("null")
	case found == '-' || found >= '0' && found <= '9':
		return s.number()
	default:
		return s.syntax("a value")
	}
}

func (s *scanner) word(wanted string) error {
	if !bytes.HasPrefix(s.body[s.at:], []byte(wanted)) {
		return s.syntax(wanted)
	}
	s.at += len(wanted)
	return nil
}

// number passes over a JSON number (RFC 8259, section 6).
func (s *scanner) number() error {
	if s.body[s.at] == '-' {
		s.at++
	}
	switch {
	case s.at < len(s.body) && s.body[s.at] == '0':
		s.at++
	case s.digits() == 0:
		return s.syntax("a digit")
	}
	if s.at < len(s.body) && s.body[s.at] == '.' {
		s.at++
		if s.digits() == 0 {
			return s.syntax("a digit")
		}
	}
	if s.at < len(s.body) && (s.body[s.at] == 'e' || s.body[s.at] == 'E') {
		s.at++
		if s.at < len(s.body) && (s.body[s.at] == '+' || s.body[s.at] == '-') {
			s.at++
		}
		if s.digits() == 0 {
			return s.syntax("a digit")
		}
	}
	return nil
}

func (s *scanner) digits() int {
	start := s.at
	for s.at < len(s.body) && s.body[s.at] >= '0' && s.body[s.at] <= '9' {
		s.at++
	}
	return s.at - start
}

var errText = errors.New("the body is not JSON: a text is not UTF-8 or has a broken escape")

// text reads a string and gives what it says.
func (s *scanner) text() (string, error) {
	raw, escaped, err := s.quoted()
	if err != nil || !escaped {
		return string(raw), err
	}
	var text string
	if err := json.Unmarshal(append(append([]byte{'"'}, raw...), '"'), &text); err != nil {
		return "", fmt.Errorf("%w, before byte %d", errText, s.at)
	}
	return text, nil
}

// quoted passes over a string (RFC 8259, section 7) and gives what stands between its quotes. Refused: control
// characters, bytes that are not UTF-8, unknown escapes, and halves of surrogate pairs.
func (s *scanner) quoted() (raw []byte, escaped bool, err error) {
	s.at++ // the opening quote
	start := s.at
	for s.at < len(s.body) {
		switch c := s.body[s.at]; {
		case c == '"':
			raw := s.body[start:s.at]
			s.at++
			if !utf8.Valid(raw) || escaped && !escapesHold(raw) {
				return nil, false, fmt.Errorf("%w, before byte %d", errText, s.at)
			}
			return raw, escaped, nil
		case c == '\\':
			escaped = true
			s.at += 2
		case c < 0x20:
			return nil, false, s.syntax("no control character inside a text")
		default:
			s.at++
		}
	}
	s.at = len(s.body)
	return nil, false, s.syntax("a closing quote")
}

// escapesHold tells whether every escape in a string is one, and surrogates come in pairs.
func escapesHold(raw []byte) bool {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		i++
		if raw[i] != 'u' {
			if !bytes.ContainsRune([]byte(`"\/bfnrt`), rune(raw[i])) {
				return false
			}
			continue
		}
		unit := hexUnit(raw, i+1)
		switch {
		case unit < 0, unit >= 0xDC00 && unit <= 0xDFFF:
			return false
		case unit >= 0xD800 && unit <= 0xDBFF:
			if i+6 >= len(raw) || raw[i+5] != '\\' || raw[i+6] != 'u' {
				return false
			}
			if low := hexUnit(raw, i+7); low < 0xDC00 || low > 0xDFFF {
				return false
			}
			i += 6
		}
		i += 4
	}
	return true
}

// hexUnit reads four hex digits; -1 if they are none.
func hexUnit(raw []byte, at int) int {
	if at+4 > len(raw) {
		return -1
	}
	unit, err := strconv.ParseUint(string(raw[at:at+4]), 16, 16)
	if err != nil {
		return -1
	}
	return int(unit)
}
