-- May this job start now? GCRA with reservations, on Redis's clock, in whole microseconds. Replies 0: yes; n: not yet, in n µs, with
-- the reservation that it has; {n, token}: not yet, in n µs, with this one.
-- KEYS[1]  the state of one rule and one key: "rule generation tat part paced part", or nothing
-- ARGV     1 the rule; its interval: 2 whole µs, and 3 a rest in parts of 4; 5 spread, burst - 1 intervals; 6 slack; 7 full, burst
--          intervals; 8 generation and 9 time of a reservation, or two empty texts; 10 what names a new generation; 11 "1": start empty
--
-- tat is the time up to which starts are handed out, reserved ones included: one interval is added for each, so that never more are handed out
-- than the rate allows, however long. paced is the same of what has really started. A reservation was handed out long ago, so where many come
-- late together tat would let all of them go at once; paced does not. tat >= paced, always.
-- A job that comes in time behind one that came late keeps its place, and waits for the rest of an interval: sent to the end of the line, as those
-- that are late themselves, it would leave its time to nobody, and each late job would cost its limit a whole interval.
-- All numbers stay below 2^53, so Lua's doubles are whole: a time is some 2^51 µs, and nothing is handed out more than 50 years ahead.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local whole, rest, rate = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local spread, slack, full = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local rule, generation, tat, tatPart, paced, pacedPart

local state = redis.call('GET', KEYS[1])
if state then
  rule, generation, tat, tatPart, paced, pacedPart = string.match(state, '^(%S+) (%S+) (%d+) (%d+) (%d+) (%d+)$')
  tat, tatPart, paced, pacedPart = tonumber(tat), tonumber(tatPart), tonumber(paced), tonumber(pacedPart)
end

-- A generation is told apart from all others by when it began, and by whose request; a second one at once by its length.
local function begin(newTat, newPaced)
  local name = string.format('%.0f-%s', now, ARGV[10])
  if name == generation then name = name .. '+' end
  generation = name
  tat, tatPart, paced, pacedPart = newTat, 0, newPaced, 0
end

local function later(time, part)
  part = part + rest
  if part >= rate then return time + whole + 1, part - rate end
  return time + whole, part
end

local function save()
  redis.call('SET', KEYS[1], string.format('%s %s %.0f %.0f %.0f %.0f', ARGV[1], generation, tat, tatPart, paced, pacedPart),
    'PX', string.format('%.0f', math.max(0, math.ceil((tat - now) / 1000)) + 60000))
end

local function start()
  if tat < now then tat, tatPart = now, 0 end
  if paced < now then paced, pacedPart = now, 0 end
  paced, pacedPart = later(paced, pacedPart)
end

if not generation then
  begin(now, now)
elseif rule ~= ARGV[1] then   -- what has started stays counted, as far as the new rule can remember; what was only handed out is not
  begin(math.min(tat, now + full), math.min(tat, paced, now + slack, now + full))
elseif paced > now + slack + whole + 1000000 then   -- it cannot be: the clock was set back
  begin(now + math.max(full, slack), now + slack)
end
if ARGV[11] == '1' then   -- jobs were started that we never heard of
  paced = math.max(paced, now + slack)
  tat = math.max(tat, paced, now + full)
end

if ARGV[8] == generation then
  local at = tonumber(ARGV[9])
  if at > now then
    if ARGV[11] == '1' then save() end
    return at - now
  end
  if paced <= now + slack then
    start()   -- tat has it already, since it was handed out
    if tat < paced then tat, tatPart = paced, pacedPart end
    save()
    return 0
  end
  if now - at <= math.max(slack, 2 * (whole + 1)) then   -- a few jobs at most, since their times lie an interval apart
    if ARGV[11] == '1' then save() end
    return paced - slack - now
  end
end

local at = tat - spread
if at <= now then
  start()
  tat, tatPart = later(tat, tatPart)
  save()
  return 0
end
if at - now > 1577880000000000 then return {at - now, ''} end   -- 50 years
tat, tatPart = later(tat, tatPart)
save()
return {at - now, string.format('%s:%.0f', generation, at)}
