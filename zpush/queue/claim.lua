-- Takes a stream's reader lease where it is free.
-- KEYS[1]: the stream. ARGV: token, TTL in ms.
-- Answers the last id that any reader was ever given (what is pending up to it is a redelivery), or nil.
local lease = '{' .. KEYS[1] .. '}:reader'
if redis.call('EXISTS', lease) == 1 then
  return false
end
redis.pcall('XGROUP', 'CREATE', KEYS[1], 'zpush', '0', 'MKSTREAM') -- BUSYGROUP: it is there already
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local fields = {}
  for i = 1, #group, 2 do
    fields[group[i]] = group[i + 1]
  end
  if fields['name'] == 'zpush' then
    redis.call('SET', lease, ARGV[1], 'PX', ARGV[2])
    return fields['last-delivered-id']
  end
end
return redis.error_reply('ERR the stream has no consumer group')
