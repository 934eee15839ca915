// Verifies COSE receipts with code that is not ours: @transmute/cose reads the receipt and computes the root, @auth0/cose checks the signature.
// Reads a file with a JSON list of {entry, receipt, spki} in hexadecimal, writes one of {root} or {error}.
import { createPublicKey } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Sign1 } from '@auth0/cose'
import * as transmute from '@transmute/cose'

const results = []
for (const { entry, receipt, spki } of JSON.parse(readFileSync(process.argv[2], 'utf-8'))) {
  const bytes = (text) => new Uint8Array(Buffer.from(text, 'hex'))
  const key = createPublicKey({ key: Buffer.from(spki, 'hex'), format: 'der', type: 'spki' })
  const verifier = {
    verify: async ({ coseSign1, payload }) => {
      await Sign1.decode(new Uint8Array(coseSign1)).verify(key, { detachedPayload: new Uint8Array(payload) })
      return payload
    },
  }
  try {
    const root = await transmute.receipt.inclusion.verify({ entry: await transmute.receipt.leaf(bytes(entry)), receipt: bytes(receipt), verifier })
    results.push({ root: Buffer.from(root).toString('hex') })
  } catch (error) {
    results.push({ error: String(error) })
  }
}
console.log(JSON.stringify(results))
