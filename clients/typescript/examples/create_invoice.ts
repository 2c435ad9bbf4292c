// Issues an invoice for a service, repeats it with the same key, and shows that it is one invoice.
//
//   INVOCHAIN_EMAIL=… INVOCHAIN_PASSWORD=… [INVOCHAIN_URL=http://127.0.0.1:8080] npm run example

import { InvoChain, Problem } from "../src/index.js";
import { InvoiceService, SupplyType } from "../gen/invochain/api/invoice/v1/invoice_service_pb.js";
import { MerchantService } from "../gen/invochain/api/merchant/v1/merchant_service_pb.js";

const url = process.env["INVOCHAIN_URL"] ?? "http://127.0.0.1:8080";
const email = process.env["INVOCHAIN_EMAIL"];
const password = process.env["INVOCHAIN_PASSWORD"];
if (!email || !password) {
  console.error("INVOCHAIN_EMAIL and INVOCHAIN_PASSWORD say who signs in; `make demo` prints a user it registered");
  process.exit(2);
}

try {
  const signedIn = await new InvoChain(url).call(MerchantService.method.signIn, { email, password });
  const invochain = new InvoChain(url, () => signedIn.message.accessToken);

  const order = {
    invoice: {
      supplyType: SupplyType.B2B,
      buyer: {
        gstin: "29AABCU9603R1ZJ",
        state: "29",
        placeOfSupply: "29",
        legalName: "Example Buyer Private Limited",
        address: { line1: "1 MG Road", location: "Bengaluru", pinCode: "560001" },
      },
      lines: [
        {
          description: "Advice on machine tools",
          isService: true,
          hsn: "998311",
          quantityMilli: 2_000n, // 2 hours
          unit: "OTH",
          unitPriceMilli: 5_000_000n, // Rs 5,000.000
          gstRateMilli: 18_000, // 18 %
        },
      ],
    },
  };
  const key = crypto.randomUUID(); // kept with the order, so that a repeat after a crash is a repeat

  const first = await invochain.call(InvoiceService.method.createInvoice, order, { key });
  const again = await invochain.call(InvoiceService.method.createInvoice, order, { key });

  const { number, invoiceId, totals } = first.message;
  console.log(`issued ${number} (${invoiceId}), total ${totals?.totalPaise} paise`);
  console.log(`repeated: ${again.message.invoiceId === invoiceId ? "the same invoice" : "ANOTHER invoice"}, replayed: ${again.replayed}`);
  process.exitCode = again.message.invoiceId === invoiceId && again.replayed ? 0 : 1;
} catch (error) {
  if (!(error instanceof Problem)) throw error;
  console.error(`refused: ${error.code}: ${error.detail}`);
  for (const fault of error.errors) console.error(`  ${fault.pointer}  ${fault.code}  ${fault.detail}`);
  process.exitCode = 1;
}
