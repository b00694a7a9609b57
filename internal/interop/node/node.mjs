// A real iroh node that does what it is told. It reads one command a line (JSON) from
// stdin and answers each with one line on stdout:
//
//	{"n": 1, "do": "name", ...}  ->  {"n": 1, ...} or {"n": 1, "error": "..."}
//
// Whoever dials it gets its streams and datagrams echoed.
import { createInterface } from 'node:readline'

const version = process.argv[2] // '0.28' or '1'
const iroh = (await import(`iroh-${version}`)).default
const ALPN = 'nodetun/interop/1'
const MAX = 64 << 20
const connections = []
const accepted = []
let node

const bytes = (b) => Array.from(b)
const keep = (c) => connections.push(c) - 1

async function serve(connection) {
  accepted.push(connection)
  const streams = async () => {
    for (;;) {
      const s = await connection.acceptBi()
      s.recv.readToEnd(MAX).then(async (b) => {
        await s.send.writeAll(version === '1' ? bytes(b) : b)
        await s.send.finish()
      }).catch(() => {})
    }
  }
  const datagrams = async () => {
    for (;;) connection.sendDatagram(await connection.readDatagram())
  }
  streams().catch(() => {})
  datagrams().catch(() => {})
}

const old = {
  async start({ secret, discovery }) {
    node = await iroh.Iroh.memory({
      secretKey: secret && bytes(Buffer.from(secret, 'hex')),
      nodeDiscovery: discovery ? 'Default' : 'None',
      protocols: {
        [Buffer.from(ALPN)]: () => ({
          accept: async (err, connecting) => {
            if (!err) serve(await connecting.connect())
          },
        }),
      },
    })
    return this.address()
  },
  async address() {
    const a = await node.net.nodeAddr()
    return { id: a.nodeId, relay: a.relayUrl, direct: a.addresses }
  },
  async connect({ id, relay, direct }) {
    const c = await node.node.endpoint().connect({ nodeId: id, relayUrl: relay, addresses: direct }, Buffer.from(ALPN))
    return { connection: keep(c), remote: c.getRemoteNodeId().toString() }
  },
  async path({ id }) {
    const info = await node.net.remoteInfo(iroh.PublicKey.fromString(id))
    return { path: info ? info.connType.type.toLowerCase() : 'none', details: info?.connType.details }
  },
  async stop() {
    await node.node.shutdown(false)
    return {}
  },
}

const recent = {
  async start({ secret, relay, token, discovery }) {
    const b = iroh.Endpoint.builder()
    discovery ? iroh.presetN0DisableRelay(b) : iroh.presetMinimal(b)
    b.alpns([bytes(Buffer.from(ALPN))])
    if (secret) b.secretKey(bytes(Buffer.from(secret, 'hex')))
    if (relay) {
      const map = iroh.RelayMap.empty()
      map.insert({ url: relay, authToken: token })
      b.relayMode(iroh.RelayMode.custom(map))
    } else {
      b.relayMode(iroh.RelayMode.disabled())
    }
    node = await b.bind()
    const accept = async () => {
      for (let i; (i = await node.acceptNext());) {
        i.accept().then((a) => a.connect()).then(serve).catch(() => {})
      }
    }
    accept().catch(() => {})
    return this.address()
  },
  async online() {
    await node.online()
    return this.address()
  },
  async address() {
    const a = node.addr()
    return { id: a.id().toString(), relay: a.relayUrl(), direct: a.directAddresses() }
  },
  async connect({ id, relay, direct }) {
    const c = await node.connect(new iroh.EndpointAddr(iroh.EndpointId.fromString(id), relay, direct), bytes(Buffer.from(ALPN)))
    return { connection: keep(c), remote: c.remoteId().toString() }
  },
  async path({ connection }) {
    const used = connections[connection].paths().find((p) => p.isSelected)
    return { path: used ? (used.isRelay ? 'relay' : 'direct') : 'none', details: used?.remoteAddr }
  },
  async stop() {
    await node.close()
    return {}
  },
}

const common = {
  // Sends size bytes on a stream and wants them back.
  async echo({ connection, size }) {
    const s = await connections[connection].openBi()
    const sent = Buffer.alloc(size)
    for (let i = 0; i < size; i++) sent[i] = (i * 7 + (i >> 8)) & 255
    const back = s.recv.readToEnd(MAX)
    await s.send.writeAll(version === '1' ? bytes(sent) : sent)
    await s.send.finish()
    if (!sent.equals(Buffer.from(await back))) throw new Error('other bytes came back')
    return {}
  },
  // Sends datagrams until one comes back: they may get lost.
  async datagram({ connection, size }) {
    const sent = Buffer.alloc(size, 42)
    const back = connections[connection].readDatagram()
    let again
    try {
      const send = () => connections[connection].sendDatagram(version === '1' ? bytes(sent) : sent)
      send()
      again = setInterval(send, 100)
      if (!sent.equals(Buffer.from(await back))) throw new Error('another datagram came back')
    } finally {
      clearInterval(again)
    }
    return {}
  },
  // Answers when a dialled or an accepted connection is over.
  async closed({ connection }) {
    return { reason: await connections[connection].closed() }
  },
  async close({ connection, code, reason }) {
    connections[connection].close(BigInt(code), version === '1' ? bytes(Buffer.from(reason)) : Buffer.from(reason))
    return {}
  },
  async accepted() {
    return { count: accepted.length }
  },
}

const can = { ...common, ...(version === '1' ? recent : old) }

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  Promise.resolve()
    .then(() => can[command.do](command))
    .then((answer) => ({ n: command.n, ...answer }))
    .catch((err) => ({ n: command.n, error: String(err?.message ?? err) }))
    .then((answer) => console.log(JSON.stringify(answer)))
}
process.exit(0)
