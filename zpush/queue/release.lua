-- Gives a stream's reader lease up. KEYS[1]: the stream. ARGV: token, last id handed on, ids read ahead but not handed on.
-- What was only read ahead is new to the next reader, no redelivery. Answers 1, or 0 where the lease was lost.
local lease = '{' .. KEYS[1] .. '}:reader'
if redis.call('GET', lease) ~= ARGV[1] then
  return 0
end
if #ARGV > 2 then
  redis.call('XACK', KEYS[1], 'zpush', unpack(ARGV, 3))
  redis.call('XGROUP', 'SETID', KEYS[1], 'zpush', ARGV[2])
end
return redis.call('DEL', lease)
