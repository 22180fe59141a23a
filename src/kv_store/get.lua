-- The value under KEYS[1], unless one of its tags was purged since. Beside `value` the hash holds, under the key of each
-- of the value's tags, the stamp that the tag had then.
local fields = redis.call('HGETALL', KEYS[1])
local value = false
for i = 1, #fields, 2 do
  if fields[i] == 'value' then
    value = fields[i + 1]
  elseif redis.call('GET', fields[i]) ~= fields[i + 1] then
    return false
  end
end
return value
