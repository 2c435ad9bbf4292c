// The client against a real HTTP server: what it sends, what it repeats, how it reads refusals.

import assert from "node:assert/strict";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { InvoChain, Problem } from "../src/index.js";
import { InventoryService } from "../gen/invochain/api/inventory/v1/inventory_service_pb.js";
import { InvoiceService, InvoiceView } from "../gen/invochain/api/invoice/v1/invoice_service_pb.js";
import { MerchantService } from "../gen/invochain/api/merchant/v1/merchant_service_pb.js";

interface Seen {
  line: string;
  headers: IncomingMessage["headers"];
  body: string;
}
type Reply = { status?: number; headers?: Record<string, string>; body?: unknown } | "hang up";

/** Runs a test against a gateway that gives the replies in turn, the last one again and again. */
async function against(replies: Reply[], run: (url: string, seen: Seen[]) => Promise<void>): Promise<void> {
  const seen: Seen[] = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    const reply = replies[Math.min(seen.length, replies.length - 1)]!;
    seen.push({ line: `${request.method} ${request.url}`, headers: request.headers, body });
    if (reply === "hang up") return request.socket.destroy();
    const kind = (reply.status ?? 200) < 400 ? "application/json" : "application/problem+json";
    response.writeHead(reply.status ?? 200, { "content-type": kind, ...reply.headers });
    response.end(JSON.stringify(reply.body ?? {}));
  });
  await new Promise<void>((open) => server.listen(0, "127.0.0.1", open));
  try {
    await run(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen);
  } finally {
    server.closeAllConnections();
    await new Promise((closed) => server.close(closed));
  }
}

const busy = { status: 409, body: { code: "CONCURRENT_REQUEST", detail: "", retryable: true, request_id: "r" } };

test("every part of a request goes where the contract says", async () => {
  await against([{}], async (url, seen) => {
    const invochain = new InvoChain(url, () => "token");
    await invochain.call(InvoiceService.method.createInvoice, { invoice: { lines: [{ quantityMilli: 10_000n }] } }, { key: "k".repeat(16) });
    await invochain.call(InvoiceService.method.rejectInvoice, { invoiceId: "a/b", reason: "price" }, { etag: "3" });
    await invochain.call(InvoiceService.method.listInvoices, { pageSize: 20, view: InvoiceView.FULL });
    await invochain.call(InventoryService.method.getStock, { sku: "A/B C" });
    await invochain.call(MerchantService.method.updateMerchant, { merchant: { legalName: "N" }, updateMask: { paths: ["legal_name"] } });
    assert.deepEqual(
      seen.map(({ line, body }) => [line, body]),
      [
        ["POST /v1/invoices", '{"lines":[{"quantity_milli":"10000"}]}'],
        ["POST /v1/invoices/a%2Fb:reject", '{"reason":"price"}'],
        ["GET /v1/invoices?page_size=20&view=FULL", ""],
        ["GET /v1/stock/A/B%20C", ""],
        ["PATCH /v1/merchant?update_mask=legal_name", '{"legal_name":"N"}'],
      ],
    );
    assert.equal(seen[0]!.headers["idempotency-key"], "k".repeat(16));
    assert.match(String(seen[1]!.headers["idempotency-key"]), /^[0-9a-f-]{36}$/);
    assert.equal(seen[1]!.headers["if-match"], '"3"');
    assert.equal(seen[2]!.headers["idempotency-key"], undefined);
    assert.equal(seen[2]!.headers["authorization"], "Bearer token");
  });
});

test("an answer is typed, with 64-bit integers whole, and says whether it is a replay", async () => {
  const body = { sku: "A", on_hand_milli: "9007199254740993", a_field_of_tomorrow: 1 };
  await against([{ headers: { "x-idempotent-replayed": "true", etag: '"7"' }, body }], async (url) => {
    const answer = await new InvoChain(url).call(InventoryService.method.getStock, { sku: "A" });
    assert.equal(answer.message.onHandMilli, 9007199254740993n);
    assert.equal(answer.replayed, true);
    assert.equal(answer.etag, "7");
  });
});

test("what may do better is repeated with the same key, a lost answer too", async () => {
  await against([busy, "hang up", { status: 201, body: { number: "A/1" } }], async (url, seen) => {
    const { message } = await new InvoChain(url).call(InvoiceService.method.createInvoice, { invoice: {} });
    assert.equal(message.number, "A/1");
    assert.equal(seen.length, 3);
    assert.equal(new Set(seen.map(({ headers }) => headers["idempotency-key"])).size, 1);
  });
});

test("a read brings the token of the latest write to its service, and an older one does not go back", async () => {
  const given = (token: string) => ({ headers: { "x-consistency-token": token } });
  const replies = [given("00000001/0/16B3748"), given("00000001/0/9"), given("00000001/1/0"), given("00000002/0/1"), {}];
  await against(replies, async (url, seen) => {
    const invochain = new InvoChain(url);
    await invochain.call(InvoiceService.method.createInvoice, { invoice: {} });
    for (let read = 0; read < 4; read++) await invochain.call(InvoiceService.method.getInvoice, { invoiceId: "i" });
    await invochain.call(InventoryService.method.getStock, { sku: "A" });
    assert.deepEqual(
      seen.map(({ headers }) => headers["x-consistency-token"]),
      [undefined, "00000001/0/16B3748", "00000001/0/16B3748", "00000001/1/0", "00000002/0/1", undefined],
    );
  });
});

test("it gives up after four attempts", async () => {
  await against([busy], async (url, seen) => {
    await assert.rejects(new InvoChain(url).call(InvoiceService.method.createInvoice, { invoice: {} }), { code: "CONCURRENT_REQUEST" });
    assert.equal(seen.length, 4);
  });
});

test("a final refusal is thrown at once, with all it says", async () => {
  const body = {
    code: "INSUFFICIENT_STOCK",
    detail: "12 free",
    retryable: false,
    request_id: "r-1",
    errors: [{ pointer: "/lines/0/quantity_milli", code: "INSUFFICIENT_STOCK", detail: "12 free" }],
    metadata: { sku: "BOLT-M8" },
  };
  await against([{ status: 409, body }], async (url, seen) => {
    const error = await new InvoChain(url).call(InvoiceService.method.createInvoice, { invoice: {} }).catch((e: unknown) => e);
    assert.ok(error instanceof Problem);
    assert.equal(error.status, 409);
    assert.equal(error.metadata["sku"], "BOLT-M8");
    assert.equal(error.errors[0]?.pointer, "/lines/0/quantity_milli");
    assert.equal(error.requestId, "r-1");
    assert.equal(seen.length, 1);
  });
});

test("a caller who gives up is not made to wait", async () => {
  await against([{ ...busy, headers: { "retry-after": "60" } }], async (url) => {
    const given = new AbortController();
    const call = new InvoChain(url).call(InvoiceService.method.createInvoice, { invoice: {} }, { signal: given.signal });
    setTimeout(() => given.abort(new Error("enough")), 50);
    await assert.rejects(call, /enough/);
  });
});

test("a method between services has no REST form", async () => {
  await assert.rejects(new InvoChain("http://127.0.0.1:1").call(MerchantService.method.lookupMerchants, {}), /no REST form/);
});
