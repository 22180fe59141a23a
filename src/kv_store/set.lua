-- Puts the value ARGV[1] under KEYS[1] for ARGV[2] milliseconds, with the tags whose keys are KEYS[2] and on. A tag has a
-- stamp for as long as a value of it may live; without one it gets ARGV[3], which nobody has used before. To purge a tag is
-- to take its stamp away, and so a stamp that the server evicts loses values and never brings one back.
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'value', ARGV[1])
for i = 2, #KEYS do
  local stamp = redis.call('GET', KEYS[i])
  if not stamp then
    stamp = ARGV[3]
    redis.call('SET', KEYS[i], stamp, 'PX', ARGV[2])
  elseif redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
  end
  redis.call('HSET', KEYS[1], KEYS[i], stamp)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return true
