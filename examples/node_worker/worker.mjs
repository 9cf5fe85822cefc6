// A worker in plain JavaScript. What it says on the wire is in docs/protocol.md.
//
//     npm install && node worker.mjs nats://127.0.0.1:4222 default shop-node
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, createInbox, headers } from "@nats-io/transport-node";

const [server, namespace, queue] = process.argv.slice(2);
const name = `node-${process.pid}`;
const CONCURRENCY = 10;
const PULL_MS = 1_000;
const ALIVE_MS = 10_000;
const UNKNOWN_MS = 5_000;
const ANSWER_MS = 5_000;
const FORGOTTEN = new Set(["RESULT_STALE", "RUN_FINISHED", "RUN_UNKNOWN"]);

/** What the author of a workflow catches by name; nobody retries it. */
class Failure extends Error {
  constructor(name, message, details = {}) {
    super(message);
    Object.assign(this, { name, details });
  }
}

/** The attempt takes too long, is silent for too long, or nobody waits for it any more. */
class Stopped extends Error {}

// -- the tasks ------------------------------------------------------------------------------------
const tasks = {
  async price({ item }) {
    return { item, cents: 100 * item.length };
  },

  async charge({ cents }) {
    if (cents > 1_000) throw new Failure("card-declined", "not covered", { limit: 1_000 });
    return `paid ${cents}`;
  },

  /** It keeps how far it is. The first attempt fails halfway, and the second one goes on from there. */
  async count({ rows }, attempt) {
    const first = attempt.progress?.row ?? 0;
    for (let row = first; row < rows; row++) {
      if (attempt.number === 1 && row === rows / 2) throw new Error(`row ${row} cannot be read`);
      await attempt.tell({ row: row + 1 });
    }
    return `from ${first} to ${rows}`;
  },

  async ship({ ms }, attempt) {
    await attempt.sleep(ms);
    return `shipped within ${ms} ms`;
  },
};

// -- one attempt ----------------------------------------------------------------------------------
const nc = await connect({ servers: server, name });
const js = jetstream(nc);
const manager = await jetstreamManager(nc);
const running = new Map();

class Attempt {
  #stop = Promise.withResolvers?.() ?? withResolvers();
  #timers = [];

  constructor(task) {
    this.task = task;
    this.number = task.attempt;
    this.progress = task.progress;
    this.#stop.promise.catch(() => {}); // It may be told when nothing waits.
  }

  /** From here on its clocks run. */
  begin() {
    const limit = this.task.timeout_s;
    if (limit) this.#timers.push(after(limit * 1000, () => this.stop(`not done within ${limit} s`)));
    this.#breathe();
  }

  #breathe() {
    clearTimeout(this.silence);
    const limit = this.task.heartbeat_s;
    if (limit) this.silence = after(limit * 1000, () => this.stop(`silent for ${limit} s`));
  }

  stop(why) {
    this.#stop.reject(new Stopped(why));
  }

  /** Says that it has come so far, and hears whether anybody waits for it. */
  async tell(progress) {
    this.#breathe();
    this.progress = progress;
    await this.ask({ progress });
  }

  async ask(more) {
    const said = { type: "attempt-progress", task_id: this.task.task_id, worker: name, ...more };
    const answer = await asked(this.task.reply, said);
    if (answer && !answer.accepted && FORGOTTEN.has(answer.code)) this.forgotten = true;
    if (answer?.code === "ATTEMPT_TAKEN") this.taken = true;
    if (this.forgotten || this.taken) this.stop(answer.code);
    return answer;
  }

  sleep(ms) {
    return this.orStopped(new Promise((done) => this.#timers.push(after(ms, done))));
  }

  orStopped(work) {
    return Promise.race([work, this.#stop.promise]);
  }

  end() {
    clearTimeout(this.silence);
    this.#timers.forEach(clearTimeout);
  }
}

/** A timer that is too long for Node would fire at once. */
function after(ms, act) {
  return setTimeout(act, Math.min(ms, 2 ** 31 - 1));
}

function withResolvers() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

/** Sends something to a run, and gives what its owner answers once that is committed; undefined if nobody does. */
async function asked(subject, command) {
  const inbox = createInbox();
  const told = headers();
  told.set("Dressage-Reply", inbox);
  const answers = nc.subscribe(inbox, { max: 1, timeout: ANSWER_MS });
  await js.publish(subject, JSON.stringify(command), { headers: told });
  try {
    for await (const answer of answers) return answer.json();
  } catch {
    return undefined;
  }
}

async function execute(message) {
  const task = message.json();
  const handler = tasks[task.task];
  if (!handler) return message.nak(UNKNOWN_MS);
  const alive = setInterval(() => message.working(), ALIVE_MS);
  const attempt = new Attempt(task);
  running.set(task.task_id, attempt);
  const leave = () => {
    attempt.end();
    running.delete(task.task_id);
    clearInterval(alive);
  };
  try {
    await beginning(attempt, message);
  } catch {
    leave(); // Nobody has answered: it is to come again, and no attempt of the author's is spent.
    return message.nak(UNKNOWN_MS);
  }
  const began = performance.now();
  const result = { type: "task-result", task_id: task.task_id };
  try {
    attempt.begin();
    result.output = (await attempt.orStopped(handler(task.args, attempt))) ?? null;
  } catch (error) {
    if (error instanceof Failure) result.failure = { name: error.name, message: error.message, details: error.details };
    else {
      const kind = error instanceof Stopped ? "timeout" : "task-error";
      result.error = { name: error.constructor.name, message: error.message, kind };
    }
  } finally {
    leave();
  }
  if (attempt.taken) return; // Another worker has it, and acknowledges it.
  if (!attempt.forgotten) {
    result.by = { worker: name, duration_ms: performance.now() - began };
    const token = task.reply.split(".").at(-1);
    await js.publish(task.reply, JSON.stringify(result), { msgID: `${token}.${task.task_id}`, retries: 10 });
  }
  message.ack();
}

/** Says that it begins, where somebody wants to know. One that comes again may have come some way with another worker,
 * whose word counts no more from now on. */
async function beginning(attempt, message) {
  const { task } = attempt;
  if (message.info.deliveryCount > 1) {
    const answer = await attempt.ask({ begins: true });
    if (!answer) throw new Error("nobody has answered");
    if (answer.accepted) attempt.progress = (await kept(task, answer.seq)) ?? attempt.progress;
  } else if (task.tells_start) {
    await attempt.ask({});
  }
}

/** What an attempt that comes again has kept. */
async function kept({ run_id, task_id, reply }, not_before) {
  const ask = JSON.stringify({ op: "attempt", run_id, task_id, not_before, hold_s: 2 });
  const shard = reply.split(".")[2];
  const answer = await nc.request(`dressage.${namespace}.ask.${shard}`, ask, { timeout: ANSWER_MS });
  return answer.json().attempt?.progress;
}

// -- the worker -----------------------------------------------------------------------------------
let stopping = false;
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => (stopping = true));

/** A run does not wait for an attempt any more, or so it seems: its owner knows. */
nc.subscribe(`dressage.${namespace}.stop.${queue}`, {
  callback: (_, message) => running.get(message.json().task_id)?.ask({}).catch(() => {}),
});

/** Pulls as many attempts of a shard as it may begin at once, so none waits here while another worker is free. */
async function serve(shard) {
  const consumer = await js.consumers.get(`dressage_${namespace}_${shard}`, `task_${queue}`);
  const begun = new Set();
  while (!stopping) {
    const free = CONCURRENCY - begun.size;
    if (free === 0) {
      await Promise.race(begun);
      continue;
    }
    for await (const message of await consumer.fetch({ max_messages: free, expires: PULL_MS })) {
      const one = execute(message)
        .catch((error) => console.error(`${name}: ${error.stack}`)) // It comes again when its time is over.
        .finally(() => begun.delete(one));
      begun.add(one);
    }
  }
  await Promise.all(begun);
}

const definition = await manager.streams.getMessage(`KV_dressage_${namespace}_definitions`, {
  last_by_subj: `$KV.dressage_${namespace}_definitions.namespace`,
});
const shards = [...Array(definition.json().shards).keys()];
console.log(`${name} serves queue ${queue} on ${shards.length} shards`);
await Promise.all(shards.map(serve));
await nc.drain();
console.log(`${name} has ended what it had begun`);
