-- Prolongs leases. ARGV: the time in milliseconds or 0 for the server's own, the milliseconds of a lease; then the name of
-- a lease in each of KEYS. A lease that was lost comes back, for its request still runs.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + ARGV[2], ARGV[i + 2])
  redis.call('PEXPIRE', key, ARGV[2])
end
return true
