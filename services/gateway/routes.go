package main

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	inventoryv1 "invochain/gateway/gen/invochain/api/inventory/v1"
	invoicev1 "invochain/gateway/gen/invochain/api/invoice/v1"
	merchantv1 "invochain/gateway/gen/invochain/api/merchant/v1"
	operatorv1 "invochain/gateway/gen/invochain/api/operator/v1"
)

// A route is one method of the contract as HTTP has it, read from its google.api.http line.
type route struct {
	method string
	// As in the proto: /v1/invoices/{invoice_id}:accept. Names the route in logs and metrics.
	template string
	rpc      protoreflect.MethodDescriptor
	// Where the body goes: "" (no body), "*" (the request itself), or a field of the request.
	body string
	// The message the body is; nil without a body.
	bodyType protoreflect.MessageDescriptor
	// Fields of the request that the path fills.
	inPath []string
	// Set for what makes a resource: its place, from the answer; the answer is 201.
	location func(proto.Message) string
	// Called without a token, so limited by address more strictly.
	open bool
	// Whole paths that this template matches, whatever the method.
	matches *regexp.Regexp
}

// Methods that make a resource. A user has no place of its own to be read at.
var creations = map[protoreflect.FullName]func(proto.Message) string{
	"invochain.api.invoice.v1.InvoiceService.CreateInvoice": func(m proto.Message) string {
		return "/v1/invoices/" + m.(*invoicev1.Invoice).GetInvoiceId()
	},
	"invochain.api.inventory.v1.InventoryService.ReserveStock": func(m proto.Message) string {
		return "/v1/reservations/" + m.(*inventoryv1.Reservation).GetReservationId()
	},
	"invochain.api.merchant.v1.MerchantService.RegisterMerchant": func(proto.Message) string { return "/v1/merchant" },
	"invochain.api.merchant.v1.MerchantService.AddUser":          func(proto.Message) string { return "" },
}

// Methods that take no token and cost the service a password hash.
var openMethods = []protoreflect.FullName{
	"invochain.api.merchant.v1.MerchantService.RegisterMerchant",
	"invochain.api.merchant.v1.MerchantService.SignIn",
	"invochain.api.merchant.v1.MerchantService.RefreshToken",
}

// All routes, and the same by method and pattern as the mux prints it ("GET /v1/invoices/{invoice_id=*}").
var (
	routes     = allRoutes()
	routeByKey = func() map[string]*route {
		byKey := map[string]*route{}
		for _, r := range routes {
			byKey[r.method+" "+r.pattern()] = r
		}
		return byKey
	}()
)

func allRoutes() []*route {
	var all []*route
	for _, file := range []protoreflect.FileDescriptor{
		merchantv1.File_invochain_api_merchant_v1_merchant_service_proto,
		inventoryv1.File_invochain_api_inventory_v1_inventory_service_proto,
		invoicev1.File_invochain_api_invoice_v1_invoice_service_proto,
		operatorv1.File_invochain_api_operator_v1_operator_service_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				if r := routeOf(methods.Get(j)); r != nil {
					all = append(all, r)
				}
			}
		}
	}
	return all
}

// routeOf reads the HTTP line of a method; nil if it has none (methods between services).
func routeOf(rpc protoreflect.MethodDescriptor) *route {
	rule, _ := proto.GetExtension(rpc.Options(), annotations.E_Http).(*annotations.HttpRule)
	if rule == nil {
		return nil
	}
	r := &route{rpc: rpc, body: rule.GetBody(), location: creations[rpc.FullName()], open: slices.Contains(openMethods, rpc.FullName())}
	switch path := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		r.method, r.template = http.MethodGet, path.Get
	case *annotations.HttpRule_Post:
		r.method, r.template = http.MethodPost, path.Post
	case *annotations.HttpRule_Patch:
		r.method, r.template = http.MethodPatch, path.Patch
	case *annotations.HttpRule_Put:
		r.method, r.template = http.MethodPut, path.Put
	case *annotations.HttpRule_Delete:
		r.method, r.template = http.MethodDelete, path.Delete
	}
	switch r.body {
	case "":
	case "*":
		r.bodyType = rpc.Input()
	default:
		r.bodyType = rpc.Input().Fields().ByName(protoreflect.Name(r.body)).Message()
	}
	expression := placeholder.ReplaceAllStringFunc(regexp.QuoteMeta(r.template), func(found string) string {
		name := strings.TrimPrefix(strings.SplitN(found, "=", 2)[0], `\{`)
		r.inPath = append(r.inPath, strings.TrimSuffix(name, `\}`))
		if strings.Contains(found, `\*\*`) {
			return `.+`
		}
		return `[^/]+`
	})
	r.matches = regexp.MustCompile("^" + expression + "$")
	return r
}

var placeholder = regexp.MustCompile(`\\\{[^}]*\}`)

// read tells whether the method changes nothing.
func (r *route) read() bool { return r.method == http.MethodGet }

// pattern is the template as the mux prints it: {invoice_id} reads {invoice_id=*}.
func (r *route) pattern() string {
	return bareVariable.ReplaceAllString(r.template, "{$1=*}")
}

var bareVariable = regexp.MustCompile(`\{([^={}]+)\}`)

// allowed lists the methods that a path takes, for the Allow header of a 405.
func allowed(path string) []string {
	var methods []string
	for _, r := range routes {
		if r.matches.MatchString(path) && !slices.Contains(methods, r.method) {
			methods = append(methods, r.method)
		}
	}
	slices.Sort(methods)
	return methods
}

// kebab turns INSUFFICIENT_STOCK into insufficient-stock.
func kebab(reason string) string {
	return strings.ReplaceAll(strings.ToLower(reason), "_", "-")
}
