package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// The OpenAPI file has every route, with what the generator cannot know: 201, problems, the key, who needs a token.
func TestTheOpenAPIFile(t *testing.T) {
	f := serve(t, startServices(t, nil))
	a := f.ask(t, "GET", "/openapi.json", "")
	expect(t, "status", a.status, 200)
	var api struct {
		Swagger     string
		Paths       map[string]map[string]map[string]any
		Definitions map[string]object
	}
	if err := json.Unmarshal([]byte(a.text), &api); err != nil {
		t.Fatal(err)
	}
	expect(t, "version", api.Swagger, "2.0")
	count := 0
	for _, methods := range api.Paths {
		count += len(methods)
	}
	expect(t, "operations", count, len(routes))
	create := api.Paths["/v1/invoices"]["post"]
	responses := create["responses"].(object)
	if responses["201"] == nil || responses["200"] != nil {
		t.Errorf("CreateInvoice answers %v", responses)
	}
	expectContains(t, encode(responses["default"]), "#/definitions/Problem")
	expectContains(t, encode(create["parameters"]), `"Idempotency-Key"`)
	expectContains(t, encode(api.Paths["/v1/invoices/{invoice_id}:accept"]["post"]["parameters"]), `"If-Match"`)
	expect(t, "sign-in needs no token", encode(api.Paths["/v1/auth:sign_in"]["post"]["security"]), "[]")
	if strings.Contains(encode(api.Paths["/v1/auth:sign_in"]["post"]["parameters"]), "Idempotency-Key") {
		t.Error("sign-in asks for a key")
	}
	if strings.Contains(a.text, "LookupMerchants") || strings.Contains(a.text, "camelCase") || strings.Contains(a.text, `"quantityMilli"`) {
		t.Error("it tells of what is not REST")
	}
	// Every place that the file points to is there.
	for part := range strings.SplitSeq(a.text, `"#/definitions/`) {
		if name, _, _ := strings.Cut(part, `"`); !strings.HasPrefix(part, "{") && api.Definitions[name] == nil {
			t.Errorf("there is no definition %s", name)
		}
	}
}

func encode(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// The page lists all operations and problems, and asks nobody else for anything.
func TestThePage(t *testing.T) {
	f := serve(t, startServices(t, nil))
	a := f.ask(t, "GET", "/docs", "")
	expect(t, "status", a.status, 200)
	expect(t, "content type", a.header.Get("Content-Type"), "text/html; charset=utf-8")
	for _, r := range routes {
		expectContains(t, a.text, `id="`+string(r.rpc.Parent().Name())+"_"+string(r.rpc.Name())+`"`)
	}
	for reason := range reasons {
		expectContains(t, a.text, "/problems/"+kebab(reason))
		page := f.ask(t, "GET", "/problems/"+kebab(reason), "")
		expect(t, reason, page.status, 200)
		expectContains(t, page.text, reason)
	}
	for _, outside := range []string{"http://", "https://", "<script", "@import", "url("} {
		if strings.Contains(a.text, outside) {
			t.Errorf("the page holds %s", outside)
		}
	}
}
