package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	invoicev1 "invochain/gateway/gen/invochain/api/invoice/v1"
)

// The codec is ProtoJSON with the names of the proto files, all defaults said, and unknown fields refused (API section 1).
type codec struct{}

var (
	encoding = protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}
	decoding = protojson.UnmarshalOptions{}
	// protojson puts spaces into its output in about half of all builds, lest anybody relies on its bytes. A replay has
	// the same body as the first answer whatever build gives it, so where it does they are taken out again.
	spaced = strings.Contains(encoding.Format(&invoicev1.GetOperationRequest{Operation: "a", Key: "b"}), " ")
)

func (codec) ContentType(any) string { return "application/json" }

func (codec) Marshal(value any) ([]byte, error) {
	message, ok := value.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", value)
	}
	text, err := encoding.Marshal(message)
	if err != nil || !spaced {
		return text, err
	}
	var tight bytes.Buffer
	tight.Grow(len(text))
	err = json.Compact(&tight, text)
	return tight.Bytes(), err
}

// Unmarshal decodes into a message, or into the field of a message that the body fills.
func (codec) Unmarshal(text []byte, value any) error {
	if message, ok := value.(proto.Message); ok {
		return decoding.Unmarshal(text, message)
	}
	field := reflect.ValueOf(value)
	if field.Kind() != reflect.Pointer || field.Elem().Kind() != reflect.Pointer {
		return fmt.Errorf("%T is no message", value)
	}
	if field.Elem().IsNil() {
		field.Elem().Set(reflect.New(field.Elem().Type().Elem()))
	}
	message, ok := field.Elem().Interface().(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", value)
	}
	return decoding.Unmarshal(text, message)
}

func (c codec) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(value any) error {
		text, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(text)) == 0 {
			return io.EOF // no body: the generated code goes on with an empty message
		}
		return c.Unmarshal(text, value)
	})
}

func (c codec) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(value any) error {
		text, err := c.Marshal(value)
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	})
}
