-- Extends a stream's reader lease. KEYS[1]: the stream. ARGV: token, TTL in ms. Answers 1, or 0 where it is lost.
local lease = '{' .. KEYS[1] .. '}:reader'
if redis.call('GET', lease) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', lease, ARGV[2])
