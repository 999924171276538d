-- Takes in what a replica did, all at once or, where another was first, not: the only place where
-- the shared state changes. KEYS[1] is the prefix of all keys, with its hash tag; ARGV[1] the
-- replica; then operations one after the other, each its kind and as many fields as ARITY says.
-- Answers with the time, the id of the last change, and a list per operation: "ok" or why not, and
-- what the replica is to know of it. What was taken in is a change in the stream, as it was given.

local prefix, replica = KEYS[1], ARGV[1]
local LIVE, RECORD = prefix .. 'live', prefix .. 'record'
local LOAD, LIFE, WORKER, SEEN = prefix .. 'load', prefix .. 'life', prefix .. 'worker', prefix .. 'seen'
local MODEL, PARTITION, CHANGES = prefix .. 'model', prefix .. 'partition', prefix .. 'changes'
local MOST_CHANGES = 50000
local REMEMBER_MS = 600000
local UNROUTED_MS = 60000
local FINAL = {RELEASED = true, RELEASED_EARLY = true, SUPERSEDED = true}
local ARITY = {place = 12, ['end'] = 7, update = 5, renew = 4, look = 2, join = 5, know = 5, save = 6, gone = 4,
  report = 4, model = 3, partition = 3, forget = 2, slots = 2, chunk = 4,
  learned = 4, recent = 4}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = ''

local function key(model, id) return model .. '\0' .. id end
local function ends_key(k) return prefix .. 'end:' .. k end
local function on_key(worker) return prefix .. 'on:' .. worker end
local function signature_key(k) return prefix .. 'signature:' .. k end

local function tell(kind, fields)
  local entry = {'r', replica, 'k', kind}
  for place, field in ipairs(fields) do
    entry[#entry + 1] = tostring(place)
    entry[#entry + 1] = field
  end
  last = redis.call('XADD', CHANGES, 'MAXLEN', '~', MOST_CHANGES, '*', unpack(entry))
end

local function live(k)
  local text = redis.call('HGET', LIVE, k)
  if text then return cmsgpack.unpack(text) end
end

local function put(k, b) redis.call('HSET', LIVE, k, cmsgpack.pack(b)) end

local function remember(k, attempt, how)
  redis.call('HSET', ends_key(k), attempt, how)
  redis.call('PEXPIRE', ends_key(k), REMEMBER_MS)
end

local function take_out(k, b, how)
  redis.call('HDEL', LIVE, k)
  redis.call('HDEL', RECORD, k)
  redis.call('HINCRBY', LOAD, b.worker, -b.sequences)
  redis.call('SREM', on_key(b.worker), k)
  remember(k, b.attempt, how)
end

local function end_life(worker, but)
  for _, k in ipairs(redis.call('SMEMBERS', on_key(worker))) do
    local b = live(k)
    if b and b.life ~= but then take_out(k, b, 'WORKER_GONE') end
  end
end

-- What places ask of a worker's state.
local function gate_of(state) return state == 'DRAINING' and state or 'READY' end

local run = {}

-- model, request, attempt, lease, worker, life, sequences, capacity, known, milliseconds, settled,
-- record
-- `known` is the load that the decision rests on; empty if it stands whatever the load is.
-- A booking that was settled without the shared state is taken in unless its request has another.
function run.place(f)
  local k, worker, life = key(f[1], f[2]), key(f[1], f[5]), f[6]
  local there = live(k)
  if there then
    if there.lease == f[4] then return {'ok'} end
    return {'live', redis.call('HGET', RECORD, k)}
  end
  local ended = redis.call('HGETALL', ends_key(k))
  for place = 1, #ended, 2 do
    local higher = tonumber(ended[place]) > tonumber(f[3]) and ended[place + 1] ~= 'RELEASED_EARLY'
    if higher or (ended[place] == f[3] and FINAL[ended[place + 1]]) then return {'ended', unpack(ended)} end
  end
  if f[11] == '' then
    local gate = redis.call('HGET', LIFE, worker) or '0 READY'
    if gate ~= life .. ' READY' then return {'worker'} end
    local load = tonumber(redis.call('HGET', LOAD, worker) or 0)
    if load >= tonumber(f[8]) then return {'capacity'} end
    if f[9] ~= '' and load > tonumber(f[9]) then return {'load'} end
  end
  put(k, {attempt = f[3], lease = f[4], worker = worker, life = life, sequences = tonumber(f[7]),
    expires = now + tonumber(f[10])})
  redis.call('HSET', RECORD, k, f[12])
  redis.call('HINCRBY', LOAD, worker, f[7])
  redis.call('SADD', on_key(worker), k)
  redis.call('PEXPIRE', signature_key(k), UNROUTED_MS)
  tell('place', f)
  return {'ok'}
end

-- model, request, attempt, lease, how, worker, what the release reported
-- Without a lease it is a release of whatever lives, or else remembered.
run['end'] = function(f)
  local k, attempt, how = key(f[1], f[2]), f[3], f[5]
  local there = live(k)
  if there and there.attempt == attempt and (f[4] == '' or f[4] == there.lease) then
    if how == 'EXPIRED' and there.expires > now then return {'renewed', redis.call('HGET', RECORD, k)} end
    if how == 'RELEASED_EARLY' then how = 'RELEASED' end
    take_out(k, there, how)
    if how == 'RELEASED' then redis.call('UNLINK', signature_key(k)) end
    tell('end', {f[1], f[2], attempt, there.lease, how, f[6], f[7]})
    return {'ended'}
  end
  if f[4] ~= '' and there and there.attempt == attempt then return {'gone'} end
  local before = redis.call('HGET', ends_key(k), attempt)
  local known = before and (FINAL[before] or not FINAL[how])
  if how == 'RELEASED_EARLY' and not there and redis.call('UNLINK', signature_key(k)) == 1 and known then
    tell('discard', {f[1], f[2]})
  end
  if known then return {'known'} end
  if before and how == 'RELEASED_EARLY' then how = 'RELEASED' end
  remember(k, attempt, how)
  tell('end', {f[1], f[2], attempt, f[4], how, f[6], f[7]})
  return {before and 'known' or 'noted'}
end

-- model, request, lease, milliseconds (empty: as it was), record
function run.update(f)
  local k = key(f[1], f[2])
  local there = live(k)
  if not there or there.lease ~= f[3] then return {'gone'} end
  there.expires = now + tonumber(f[4])
  put(k, there)
  redis.call('HSET', RECORD, k, f[5])
  tell('update', f)
  return {'ok'}
end

-- model, request, attempt, lease (empty: any): for a booking that the replica does not know of
function run.renew(f)
  local there = live(key(f[1], f[2]))
  if there and there.attempt == f[3] and (f[4] == '' or f[4] == there.lease) then
    return {'ok', redis.call('HGET', RECORD, key(f[1], f[2]))}
  end
  return {'gone'}
end

-- model, request: what there is of it, as `place` says it; of one that lives, also what has ended
function run.look(f)
  local k = key(f[1], f[2])
  local ended = redis.call('HGETALL', ends_key(k))
  if live(k) then return {'live', redis.call('HGET', RECORD, k), unpack(ended)} end
  if #ended > 0 then return {'ended', unpack(ended)} end
  return {'gone'}
end

-- model, worker, life, state, record
function run.join(f)
  local worker = key(f[1], f[2])
  end_life(worker, f[3])
  redis.call('HSET', LIFE, worker, f[3] .. ' ' .. gate_of(f[4]))
  redis.call('HSET', WORKER, worker, f[5])
  redis.call('HSET', SEEN, worker, now)
  tell('join', f)
  return {'ok'}
end

-- the same, unless a life as young is known
function run.know(f)
  local gate = redis.call('HGET', LIFE, key(f[1], f[2]))
  if gate and tonumber(string.match(gate, '^(%d+) ')) >= tonumber(f[3]) then return {'known'} end
  return run.join(f)
end

-- the same, of a worker whose life goes on, and the state that was known of it
function run.save(f)
  local worker = key(f[1], f[2])
  local gate = redis.call('HGET', LIFE, worker)
  if not gate or string.match(gate, '^(%d+) ') ~= f[3] then return {'gone'} end
  if gate ~= f[3] .. ' ' .. gate_of(f[6]) then return {'moved'} end
  redis.call('HSET', LIFE, worker, f[3] .. ' ' .. gate_of(f[4]))
  redis.call('HSET', WORKER, worker, f[5])
  tell('save', f)
  return {'ok'}
end

-- model, worker, life (empty: any), silent for so many milliseconds at least
function run.gone(f)
  local worker = key(f[1], f[2])
  local gate = redis.call('HGET', LIFE, worker)
  if not gate or (f[3] ~= '' and string.match(gate, '^(%d+) ') ~= f[3]) then return {'gone'} end
  local seen = tonumber(redis.call('HGET', SEEN, worker) or 0)
  if now - seen < tonumber(f[4]) then return {'seen'} end
  end_life(worker, '')
  for _, hash in ipairs({LIFE, WORKER, SEEN, LOAD}) do redis.call('HDEL', hash, worker) end
  tell('gone', f)
  return {'ok'}
end

-- model, worker, life, report
function run.report(f)
  local worker = key(f[1], f[2])
  local gate = redis.call('HGET', LIFE, worker)
  if gate and string.match(gate, '^(%d+) ') ~= f[3] then return {'gone'} end
  if gate then redis.call('HSET', SEEN, worker, now) end
  tell('report', f)
  return {'ok'}
end

-- model, the record that it rests on (empty: none), record
function run.model(f)
  local before = redis.call('HGET', MODEL, f[1]) or ''
  if before == f[3] then return {'ok'} end
  if before ~= f[2] then return {'changed', before} end
  redis.call('HSET', MODEL, f[1], f[3])
  tell('model', {f[1], f[3]})
  return {'ok'}
end

-- model, version, file
function run.partition(f)
  if redis.call('HSETNX', PARTITION, key(f[1], f[2]), f[3]) == 0 then
    if redis.call('HGET', PARTITION, key(f[1], f[2])) ~= f[3] then return {'changed', ''} end
  end
  return {'ok'}
end

-- model, version
function run.forget(f)
  redis.call('HDEL', PARTITION, key(f[1], f[2]))
  tell('forget', f)
  return {'ok'}
end

-- model, slots of its workers: only from the replica that leads
function run.slots(f)
  if redis.call('GET', prefix .. 'leader') ~= replica then return {'gone'} end
  tell('slots', f)
  return {'ok'}
end

-- model, policy, when, arrays
function run.learned(f)
  local hash = prefix .. 'learned'
  redis.call('HSET', hash, key(f[1], 'policy'), f[2], key(f[1], 'saved'), f[3], key(f[1], 'data'), f[4])
  return {'ok'}
end

-- model, time of the latest, time before which nothing is kept, arrays
function run.recent(f)
  local pieces = prefix .. 'recent:' .. f[1]
  redis.call('ZREMRANGEBYSCORE', pieces, '-inf', '(' .. f[3])
  redis.call('ZADD', pieces, f[2], f[4])
  return {'ok'}
end

-- model, request, milliseconds, message; answers with how many messages there are now
function run.chunk(f)
  local k = key(f[1], f[2])
  local messages = redis.call('RPUSH', signature_key(k), f[4])
  redis.call('PEXPIRE', signature_key(k), f[3])
  tell('chunk', {f[1], f[2]})
  return {'ok', tostring(messages)}
end

local results, place = {}, 2
while place <= #ARGV do
  local kind = ARGV[place]
  local fields = {}
  for field = 1, ARITY[kind] do fields[field] = ARGV[place + field] end
  results[#results + 1] = run[kind](fields)
  place = place + ARITY[kind] + 1
end
return {tostring(now), last, results}
