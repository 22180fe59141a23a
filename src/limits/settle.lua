-- Gives back what ended requests held. Of each of KEYS, ARGV has: the period (0 for parallel requests), the units to give
-- back, and the lease's name.
for i, key in ipairs(KEYS) do
  local period, refund, lease = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), ARGV[3 * i]
  if period == 0 then
    redis.call('ZREM', key, lease)
  else
    local debt, time = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
    if debt then
      debt = math.max(debt - refund * period, 0)
      redis.call('SET', key, string.format('%.0f %s', debt, time), 'KEEPTTL')
    end
  end
end
return true
