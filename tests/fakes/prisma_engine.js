/**
 * A stand-in for Prisma's query engine, which tests cannot download: the same engine as WebAssembly, from npm's
 * @prisma/client, behind the interface of the native program that prisma-client-py starts.
 *
 *   node prisma_engine.js -p PORT --enable-metrics --enable-raw-queries
 *
 * As the native engine: it connects before it listens, and exits with 1 and the error if it cannot. It reads
 * PRISMA_DML_PATH (the schema), and the URL of the database from OVERWRITE_DATASOURCES or DATABASE_URL. Requests are
 * GraphQL, which the WebAssembly engine does not read: they are translated to Prisma's JSON protocol and back.
 *
 * NODE_PATH has the packages of package.json.
 */
'use strict'

const fs = require('node:fs')
const http = require('node:http')
const os = require('node:os')
const path = require('node:path')

const COMMIT = '393aa359c9ad4a4bb28630fb5613f9c281cde053'
const VERSION = `query-engine ${COMMIT}`
/** Actions of the JSON protocol. In GraphQL, the name of a field is an action and a model. */
const ACTIONS = [
  'findUnique', 'findFirst', 'findMany', 'createOne', 'createMany', 'updateOne', 'updateMany', 'deleteOne',
  'deleteMany', 'upsertOne', 'aggregate', 'groupBy',
]
const RAW_ACTIONS = ['queryRaw', 'executeRaw']
/** Arguments of a query that hold values of fields. */
const WRITTEN = ['data', 'create', 'update']
/** Errors of connections that Node reports, as opposed to PostgreSQL. */
const UNREACHABLE = new Set([
  'ECONNREFUSED', 'ENOENT', 'ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOTFOUND', 'EAI_AGAIN',
])

if (process.argv.includes('--version')) {
  console.log(VERSION)
  process.exit(0)
}

// --- The URL of the database ---

/**
 * What a URL in Prisma's form says about the connections.
 *
 * @typedef {object} Target
 * @property {string} host a name, an address, or the folder of a UNIX socket
 * @property {number} port
 * @property {string} user
 * @property {string} database
 * @property {string} schema
 * @property {number} limit connections of the pool
 * @property {number} poolTimeout seconds that a query waits for a connection
 * @property {object} options for pg.Pool
 */

/**
 * @param {string} url
 * @returns {Target}
 */
function readUrl(url) {
  const parts = new URL(url)
  const query = parts.searchParams
  const number = (name, otherwise) => Number(query.get(name) ?? otherwise)
  const target = {
    host: query.get('host') ?? decodeURIComponent(parts.hostname),
    port: Number(parts.port || 5432),
    user: decodeURIComponent(parts.username),
    database: decodeURIComponent(parts.pathname.slice(1)),
    schema: query.get('schema') ?? 'public',
    limit: number('connection_limit', os.cpus().length * 2 + 1),
    poolTimeout: number('pool_timeout', 10),
  }
  const options = {
    host: target.host,
    port: target.port,
    user: target.user,
    password: decodeURIComponent(parts.password) || undefined,
    database: target.database,
    max: target.limit,
    connectionTimeoutMillis: target.poolTimeout * 1000,
    application_name: query.get('application_name') ?? undefined,
    options: query.get('options') ?? undefined,
    ssl: readTls(query),
  }
  return { ...target, options }
}

/** TLS is off unless `sslmode=require`: Prisma's default, `prefer`, is not worth a second connection in tests. */
function readTls(query) {
  if (query.get('sslmode') !== 'require') return false
  const certificate = query.get('sslcert')
  return {
    rejectUnauthorized: query.get('sslaccept') === 'strict',
    ca: certificate ? fs.readFileSync(certificate, 'utf8') : undefined,
  }
}

function findUrl() {
  const sources = JSON.parse(process.env.OVERWRITE_DATASOURCES || '[]')
  return sources[0]?.url ?? process.env.DATABASE_URL
}

// --- From GraphQL to the JSON protocol ---

/**
 * The names of models, each with the names of its fields of type Json.
 *
 * @param {string} schema the text of a schema.prisma
 * @returns {Map<string, Set<string>>}
 */
function readModels(schema) {
  const models = new Map()
  for (const [, name, body] of schema.matchAll(/^model\s+(\w+)\s*\{([\s\S]*?)^\}/gm)) {
    models.set(name, new Set([...body.matchAll(/^\s*(\w+)\s+Json\b/gm)].map((match) => match[1])))
  }
  return models
}

/** The value of a node of the syntax tree. */
function readValue(node, variables) {
  const children = (nodes) => nodes.map((each) => readValue(each, variables))
  switch (node.kind) {
    case 'NullValue':
      return null
    case 'IntValue':
      return Number.isSafeInteger(Number(node.value)) ? Number(node.value) : { $type: 'BigInt', value: node.value }
    case 'FloatValue':
      return Number(node.value)
    case 'ListValue':
      return children(node.values)
    case 'ObjectValue':
      return Object.fromEntries(node.fields.map((field) => [field.name.value, readValue(field.value, variables)]))
    case 'Variable':
      return variables[node.name.value]
    default:
      return node.value
  }
}

function readArguments(node, variables) {
  return Object.fromEntries((node.arguments ?? []).map((each) => [each.name.value, readValue(each.value, variables)]))
}

function readSelection(set, variables) {
  const read = (field) =>
    field.selectionSet
      ? { arguments: readArguments(field, variables), selection: readSelection(field.selectionSet, variables) }
      : true
  return Object.fromEntries((set?.selections ?? []).map((field) => [field.name.value, read(field)]))
}

/** Tag the texts of Json fields. In GraphQL they are JSON; in the JSON protocol a text without a tag is a string. */
function tagJson(value, fields) {
  if (Array.isArray(value)) return value.map((each) => tagJson(each, fields))
  if (value === null || typeof value !== 'object' || '$type' in value) return value
  const tag = (each) => (typeof each === 'string' ? { $type: 'Json', value: each } : each)
  const convert = ([name, each]) => {
    if (!fields.has(name)) return [name, tagJson(each, fields)]
    return [name, typeof each?.set === 'string' ? { set: tag(each.set) } : tag(each)]
  }
  return Object.fromEntries(Object.entries(value).map(convert))
}

/**
 * @typedef {object} Translated
 * @property {string} field the name of the field in the answer of the engine
 * @property {string} alias its name in the answer to the client
 * @property {object} query the query in the JSON protocol
 */

class Translator {
  /** @param {string} schema the text of a schema.prisma */
  constructor(schema, parse) {
    this.models = readModels(schema)
    this.parse = parse
  }

  /**
   * @param {{query: string, variables?: object}} request of GraphQL, with one field
   * @returns {Translated}
   */
  translate(request) {
    const [node] = this.parse(request.query).definitions[0].selectionSet.selections
    const field = node.name.value
    const variables = request.variables ?? {}
    const query = {
      arguments: readArguments(node, variables),
      selection: readSelection(node.selectionSet, variables),
    }
    return { field, alias: node.alias?.value ?? field, query: this.#action(field, query) }
  }

  #action(field, query) {
    if (RAW_ACTIONS.includes(field)) return { action: field, query: { ...query, selection: {} } }
    const orThrow = /^(findUnique|findFirst)(\w+)OrThrow$/.exec(field)
    if (orThrow && this.models.has(orThrow[2])) {
      return { modelName: orThrow[2], action: `${orThrow[1]}OrThrow`, query }
    }
    const action = ACTIONS.find((each) => field.startsWith(each) && this.models.has(field.slice(each.length)))
    if (!action) throw new Error(`no action for ${field}`)
    const modelName = field.slice(action.length)
    for (const name of WRITTEN.filter((each) => each in query.arguments)) {
      query.arguments[name] = tagJson(query.arguments[name], this.models.get(modelName))
    }
    return { modelName, action, query }
  }
}

// --- From the JSON protocol to GraphQL ---

/** A value without the tags of the JSON protocol, which GraphQL lacks. */
function withoutTags(value) {
  if (value === null || typeof value !== 'object') return value
  if (Array.isArray(value)) return value.map(withoutTags)
  if ('$type' in value) return value.value
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, withoutTags(each)]))
}

/** The answer to queryRaw: columns, their types, and rows, in which JSON is no text. */
function readRaw(table) {
  const convert = (value, type) => (type === 'json' && typeof value === 'string' ? JSON.parse(value) : value)
  const row = (values) => values.map((each, column) => convert(withoutTags(each), table.types[column]))
  return table?.columns ? { ...table, rows: table.rows.map(row) } : table
}

/** @param {Translated} translated */
function readAnswer(answer, translated) {
  if (!answer.data) return answer
  const value = answer.data[translated.field] ?? Object.values(answer.data)[0]
  return { data: { [translated.alias]: translated.field === 'queryRaw' ? readRaw(value) : withoutTags(value) } }
}

// --- Errors ---

/** An error of Prisma, as clients get it. https://www.prisma.io/docs/orm/reference/error-reference */
function userFacing(code, message, meta = {}) {
  return { is_panic: false, message, meta, error_code: code }
}

class Errors {
  /** @param {Target} target */
  constructor(target, pool) {
    this.target = target
    this.pool = pool
  }

  /** The native engine's form of an error of the driver, which the WebAssembly engine does not know. */
  ofDriver(error) {
    const { host, port, user, database, limit, poolTimeout } = this.target
    const server = `\`${host}:${port}\``
    if (error.code === '28P01' || error.code === '28000') {
      const message =
        `Authentication failed against database server at \`${host}\`, the provided database credentials for ` +
        `\`${user}\` are not valid.\n\nPlease make sure to provide valid database credentials for the database ` +
        `server at \`${host}\`.`
      return userFacing('P1000', message, { database_user: user, database_host: host })
    }
    if (error.code === '3D000') {
      const message = `Database \`${database}\` does not exist on the database server at ${server}.`
      return userFacing('P1003', message, { database_name: database, database_host: host, database_port: port })
    }
    const isLate = error.message.startsWith('timeout exceeded when trying to connect')
    if (isLate && this.pool.totalCount >= limit) {
      const message =
        'Timed out fetching a new connection from the connection pool. More info: http://pris.ly/d/connection-pool ' +
        `(Current connection pool timeout: ${poolTimeout}, connection limit: ${limit})`
      return userFacing('P2024', message, { connection_limit: limit, timeout: poolTimeout })
    }
    if (isLate || UNREACHABLE.has(error.code)) {
      const message =
        `Can't reach database server at ${server}\n\nPlease make sure your database server is running at ${server}.`
      return userFacing('P1001', message, { database_host: host, database_port: port })
    }
    if (error.code === 'ECONNRESET' || error.code === 'EPIPE' || error.message.startsWith('Connection terminated')) {
      return userFacing('P1017', 'Server has closed the connection.')
    }
    return { is_panic: false, message: error.message, backtrace: null }
  }
}

// --- The engine ---

/** A response: a status code and a body. */
const answer = (body, status = 200) => ({ status, body })

class Engine {
  /**
   * @param {object} engine the WebAssembly engine
   * @param {object} adapter its driver
   * @param {Translator} translator
   * @param {Errors} errors
   */
  constructor(engine, adapter, translator, errors) {
    this.engine = engine
    this.adapter = adapter
    this.translator = translator
    this.errors = errors
  }

  /** Answer a request with a body, which is empty for GET. */
  async serve(method, url, headers, body) {
    const [, first, transaction, action] = url.split('?')[0].split('/')
    if (first === 'status') return answer({ status: 'ok' })
    if (first === 'metrics') return answer({ counters: [], gauges: [], histograms: [] })
    if (first === 'transaction') return this.#transaction(transaction, action, body)
    if (method !== 'POST' || first) return answer({}, 404)
    return answer(await this.#query(JSON.parse(body), headers['x-transaction-id']))
  }

  async #transaction(id, action, body) {
    const call = {
      undefined: () => this.engine.startTransaction(body, '{}'),
      commit: () => this.engine.commitTransaction(id, '{}'),
      rollback: () => this.engine.rollbackTransaction(id, '{}'),
    }[action]
    const result = this.#native(JSON.parse(await call()))
    if (!('is_panic' in result)) return answer(result)
    const closed = result.error_code === 'P2028' && /already closed/.test(result.message)
    return answer(result, closed ? 422 : 500)
  }

  async #query(request, transaction) {
    if (!request.batch) {
      const translated = this.translator.translate(request)
      return readAnswer(await this.#run(translated.query, transaction), translated)
    }
    const translated = request.batch.map((each) => this.translator.translate(each))
    const isolation = request.transaction ? { isolationLevel: request.isolationLevel ?? null } : undefined
    const batch = { batch: translated.map((each) => each.query), transaction: isolation }
    const result = await this.#run(batch, transaction)
    if (!result.batchResult) return result
    return { batchResult: result.batchResult.map((each, index) => readAnswer(each, translated[index])) }
  }

  async #run(query, transaction) {
    const result = JSON.parse(await this.engine.query(JSON.stringify(query), '{}', transaction))
    for (const each of [result, ...(result.batchResult ?? [])].filter((every) => every.errors)) {
      each.errors = each.errors.map((error) => this.#nativeError(error))
    }
    return result
  }

  #nativeError(error) {
    const found = this.#native(error.user_facing_error)
    return found === error.user_facing_error ? error : { error: found.message, user_facing_error: found }
  }

  /** The error of the native engine in place of one that only refers to an error of the driver (P2036). */
  #native(error) {
    if (error.error_code !== 'P2036') return error
    const cause = this.adapter.errorRegistry.consumeError(error.meta.id)
    return cause ? this.errors.ofDriver(cause.error) : error
  }
}

// --- Start ---

/** Types of PostgreSQL's catalogue that the native engine reads, and the adapter does not: as text instead. */
const TEXT_TYPES = new Map([[19, 25], [1003, 1009]])

/** The adapter, which LiteLLM can ask for names of views too. */
function makeAdapter(pool, options) {
  const { PrismaPg } = require('@prisma/adapter-pg')
  const { types } = require('pg')
  for (const [type, text] of TEXT_TYPES) types.setTypeParser(type, types.getTypeParser(text))
  class Adapter extends PrismaPg {
    async performIO(query) {
      const result = await super.performIO(query)
      for (const field of result.value?.fields ?? []) field.dataTypeID = TEXT_TYPES.get(field.dataTypeID) ?? field.dataTypeID
      return result
    }
  }
  return new Adapter(pool, options)
}

/** @param {Target} target */
async function start(url, target, schema) {
  const { Pool } = require('pg')
  const { bindAdapter } = require('@prisma/driver-adapter-utils')
  const { parse } = require('graphql')
  const runtime = path.join(path.dirname(require.resolve('@prisma/client/package.json')), 'runtime')

  const pool = new Pool(target.options)
  // The pool has removed an idle connection that PostgreSQL closed. Without a listener the error would end Node.
  pool.on('error', () => {})
  const errors = new Errors(target, pool)
  try {
    ;(await pool.connect()).release()
  } catch (error) {
    console.error(JSON.stringify(errors.ofDriver(error)))
    process.exit(1)
  }
  const glue = require(path.join(runtime, 'query_engine_bg.postgresql.js'))
  const code = new WebAssembly.Module(fs.readFileSync(path.join(runtime, 'query_engine_bg.postgresql.wasm')))
  glue.__wbg_set_wasm(new WebAssembly.Instance(code, { './query_engine_bg.js': glue }).exports)
  const adapter = bindAdapter(makeAdapter(pool, { schema: target.schema }))
  const settings = {
    datamodel: schema,
    logLevel: 'error',
    logQueries: false,
    datasourceOverrides: {},
    env: { DATABASE_URL: url },
    configDir: '.',
    ignoreEnvVarErrors: true,
    engineProtocol: 'json',
  }
  const engine = new glue.QueryEngine(settings, () => {}, adapter)
  await engine.connect('{}')
  return new Engine(engine, adapter, new Translator(schema, parse), errors)
}

/** @param {Engine} engine */
function listen(engine, port) {
  const failed = (error) => {
    const found = { is_panic: false, message: error.message, backtrace: null }
    return answer({ errors: [{ error: error.message, user_facing_error: found }] })
  }
  const server = http.createServer(async (request, response) => {
    const chunks = []
    for await (const chunk of request) chunks.push(chunk)
    const body = Buffer.concat(chunks).toString()
    const result = await engine.serve(request.method, request.url, request.headers, body).catch(failed)
    response.writeHead(result.status, { 'content-type': 'application/json' })
    response.end(JSON.stringify(result.body))
  })
  // The client keeps its connections; the native engine does not close them.
  server.keepAliveTimeout = 0
  server.listen(port, '127.0.0.1')
}

async function main() {
  const url = findUrl()
  const engine = await start(url, readUrl(url), fs.readFileSync(process.env.PRISMA_DML_PATH, 'utf8'))
  listen(engine, Number(process.argv[process.argv.indexOf('-p') + 1]))
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
