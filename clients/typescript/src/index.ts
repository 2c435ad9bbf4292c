// The InvoChain contract over REST, typed: any method, by its descriptor.
//
// The HTTP line of a method (google.api.http) is read from the contract, so a new method needs no code here. Amounts are
// bigint paise. A refusal is thrown as a Problem; switch on its `code`.

import {
  create,
  createRegistry,
  fromJson,
  getOption,
  toJson,
  type DescMessage,
  type DescMethodUnary,
  type JsonObject,
  type JsonValue,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { FieldMaskSchema } from "@bufbuild/protobuf/wkt";
import { http } from "../gen/google/api/annotations_pb.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  PreconditionFailureSchema,
  QuotaFailureSchema,
  RetryInfoSchema,
} from "../gen/google/rpc/error_details_pb.js";

/** One broken rule, with its place in the request body (RFC 6901). */
export interface Fault {
  pointer: string;
  code: string;
  detail: string;
}

/** A refusal as the gateway tells it (RFC 9457). */
export class Problem extends Error {
  constructor(
    /** HTTP status. */
    readonly status: number,
    /** Reason to switch on, for example INSUFFICIENT_STOCK. */
    readonly code: string,
    readonly detail: string,
    /** Whether the same request with the same key may do better. */
    readonly retryable: boolean,
    /** Seconds to wait before that, if the gateway says so. */
    readonly retryAfterSeconds: number | undefined,
    readonly errors: readonly Fault[],
    readonly metadata: Readonly<Record<string, string>>,
    /** Finds the log lines. */
    readonly requestId: string,
  ) {
    super(`${code}: ${detail}`);
    this.name = "Problem";
  }
}

/** What may go with a call. */
export interface CallOptions {
  /** Idempotency key; made afresh if the method changes something and none is given. Keep it to repeat the call. */
  key?: string;
  /** The etag the change is meant for; a stale one is refused with VERSION_MISMATCH. */
  etag?: string;
  signal?: AbortSignal;
  /** Milliseconds for one attempt; 6,000 if absent, a little more than the gateway takes. */
  timeoutMs?: number;
}

/** An answer, with what its headers say. */
export interface Answer<T> {
  message: T;
  /** The first call with this key gave this answer; nothing was done now. */
  replayed: boolean;
  etag: string | undefined;
}

// Attempts of a call that a gateway asks to repeat; the key makes that harmless.
const attemptsMax = 4;
const timeoutMsDefault = 6_000;

const registry = createRegistry(
  BadRequestSchema,
  ErrorInfoSchema,
  PreconditionFailureSchema,
  QuotaFailureSchema,
  RetryInfoSchema,
);

const consistencyToken = "x-consistency-token";

/**
 * A caller of one gateway. `token` is read before every attempt, so it may change.
 *
 * Its reads see what it wrote before, whichever replica answers: a call carries the latest consistency token that its
 * service gave.
 */
export class InvoChain {
  // By service.
  private readonly written = new Map<string, string>();

  constructor(
    readonly url: string,
    private readonly token: () => string | undefined = () => undefined,
  ) {}

  /** Calls a method and gives its answer; repeats what is safe to repeat. Throws Problem. */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): Promise<Answer<MessageShape<O>>> {
    const { verb, path, body } = place(method, create(method.input, request));
    const headers: Record<string, string> = { accept: "application/json" };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (verb !== "GET") headers["idempotency-key"] = options.key ?? crypto.randomUUID();
    if (options.etag !== undefined) headers["if-match"] = `"${options.etag}"`;

    const service = method.parent.typeName;
    const written = this.written.get(service);
    if (written !== undefined) headers[consistencyToken] = written;

    for (let attempt = 1; ; attempt++) {
      const token = this.token();
      if (token !== undefined) headers["authorization"] = `Bearer ${token}`;
      const timeout = AbortSignal.timeout(options.timeoutMs ?? timeoutMsDefault);
      let failure: unknown;
      let waitMs = 50 * 2 ** attempt * (0.5 + Math.random());
      try {
        const response = await fetch(this.url + path, {
          method: verb,
          headers,
          ...(body !== undefined && { body: JSON.stringify(body) }),
          signal: options.signal ? AbortSignal.any([options.signal, timeout]) : timeout,
        });
        const text = await response.text();
        if (response.ok) {
          this.learn(service, response.headers.get(consistencyToken));
          return {
            message: fromJson(method.output, JSON.parse(text) as JsonValue, { ignoreUnknownFields: true, registry }),
            replayed: response.headers.get("x-idempotent-replayed") === "true",
            etag: response.headers.get("etag")?.replaceAll('"', ""),
          };
        }
        const problem = readProblem(response, text);
        if (!problem.retryable) throw problem;
        if (problem.retryAfterSeconds !== undefined) waitMs = Math.max(waitMs, problem.retryAfterSeconds * 1_000);
        failure = problem;
      } catch (error) {
        // A caller who gave up, and a final refusal, end it; a lost connection or a time-out has an unknown outcome,
        // and the same key finds out.
        if (options.signal?.aborted || (error instanceof Problem && !error.retryable)) throw error;
        failure = error;
      }
      if (attempt === attemptsMax) throw failure;
      await pause(waitMs, options.signal);
    }
  }

  /** Keeps the later token: answers to calls side by side come in any order. */
  private learn(service: string, token: string | null): void {
    if (!token) return;
    const known = placeOf(this.written.get(service) ?? "");
    const told = placeOf(token);
    if (known === undefined || told === undefined || !isBefore(told, known)) this.written.set(service, token);
  }
}

/** A consistency token as numbers that grow with every write; undefined for one of a form that is not known. */
function placeOf(token: string): bigint[] | undefined {
  const parts = token.split("/");
  return parts.every((part) => /^[0-9a-f]{1,16}$/i.test(part)) ? parts.map((part) => BigInt(`0x${part}`)) : undefined;
}

/** Whether a place is before another one. */
function isBefore(one: bigint[], other: bigint[]): boolean {
  const at = one.findIndex((number, index) => number !== other[index]);
  return at === -1 ? one.length < other.length : at < other.length && one[at]! < other[at]!;
}

/** Where a request goes: the HTTP line of its method, filled in. */
function place<I extends DescMessage>(
  method: DescMethodUnary<I>,
  request: MessageShape<I>,
): { verb: string; path: string; body: JsonValue | undefined } {
  const rule = getOption(method, http);
  const template = rule.pattern.value;
  if (rule.pattern.case === undefined || typeof template !== "string") {
    throw new Error(`${method.name} has no REST form`);
  }
  const verb = rule.pattern.case.toUpperCase();
  const fields = toJson(method.input, request, { useProtoFieldName: true, registry }) as JsonObject;
  const path = template.replace(/\{(\w+)(?:=([^}]*))?\}/g, (_, name: string, shape: string | undefined) => {
    const value = String(fields[name] ?? "");
    delete fields[name];
    if (value === "") throw new Error(`${method.name} needs ${name}`);
    return shape === "**" ? value.split("/").map(encodeURIComponent).join("/") : encodeURIComponent(value);
  });
  if (rule.body === "*") return { verb, path, body: fields };
  const inBody = rule.body === "" ? undefined : (fields[rule.body] ?? {});
  delete fields[rule.body];
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    // A mask in a query names fields as the contract does; only inside JSON are they in camelCase.
    if (method.input.fields.find((field) => field.name === name)?.message?.typeName === FieldMaskSchema.typeName) {
      query.set(name, String(value).replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`));
      continue;
    }
    for (const each of Array.isArray(value) ? value : [value]) query.append(name, String(each));
  }
  return { verb, path: query.size > 0 ? `${path}?${query}` : path, body: inBody };
}

function readProblem(response: Response, text: string): Problem {
  const wait = Number(response.headers.get("retry-after") ?? NaN);
  const retryAfter = Number.isFinite(wait) ? wait : undefined;
  if (!response.headers.get("content-type")?.startsWith("application/problem+json")) {
    // Not the gateway: something on the way to it.
    const retryable = response.status === 502 || response.status === 503 || response.status === 504;
    return new Problem(response.status, `HTTP_${response.status}`, text.slice(0, 200), retryable, retryAfter, [], {}, "");
  }
  const told = JSON.parse(text) as {
    code: string;
    detail: string;
    retryable: boolean;
    request_id: string;
    errors?: Fault[];
    metadata?: Record<string, string>;
  };
  return new Problem(
    response.status,
    told.code,
    told.detail,
    told.retryable,
    retryAfter,
    told.errors ?? [],
    told.metadata ?? {},
    told.request_id,
  );
}

async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const gaveUp = () => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", gaveUp);
      resolve();
    }, ms);
    signal?.addEventListener("abort", gaveUp, { once: true });
  });
}
