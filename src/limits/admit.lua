-- Admits a request against all limits KEYS, or refuses it and counts nothing. ARGV: the time in milliseconds or 0 for the
-- server's own, the lease's name, its milliseconds; then of each limit its period in milliseconds, the units in a period,
-- and the units asked for. A period of 0 is a number of parallel requests: a sorted set of leases by their end. All others
-- are buckets: "debt time". Replies whether it was admitted (1 or 0) and the readings before it.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local reply, times = {1}, {}
for i, key in ipairs(KEYS) do
  local period, most, cost = tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2]), tonumber(ARGV[3 * i + 3])
  local reading, weight, capacity = 0, cost, most
  if period == 0 then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    reading = redis.call('ZCARD', key)
  else
    weight, capacity = cost * period, most * period
    local debt, time = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
    times[i] = now
    if debt then
      local elapsed = math.min(math.max(now - time, 0), period)
      reading = math.max(math.min(tonumber(debt), capacity) - elapsed * most, 0)
      times[i] = math.max(now, tonumber(time))
    end
  end
  if reading + weight > capacity then reply[1] = 0 end
  reply[i + 1] = reading
end
if reply[1] == 1 then
  for i, key in ipairs(KEYS) do
    local period, cost = tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 3])
    if period == 0 then
      redis.call('ZADD', key, now + ARGV[3], ARGV[2])
      redis.call('PEXPIRE', key, ARGV[3])
    else
      redis.call('SET', key, string.format('%.0f %.0f', reply[i + 1] + cost * period, times[i]), 'PX', period)
    end
  end
end
return reply
